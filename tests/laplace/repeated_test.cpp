// Weights that are used several times for a sample: by a repeated layer, or on copies of the sample
// whose outputs are averaged. That every structure is the GGN of such networks is among the
// examples of tests/nn/layer_examples.cpp; here are their Kronecker factors.
#include "tests/catch.h"

#include "core/error.h"
#include "laplace/hyper_gradient.h"
#include "laplace/predictive.h"
#include "nn/averaged.h"
#include "tests/laplace/brute_force.h"

using namespace evariste;

namespace {

void check_close(const Tensor& found, const Tensor& expected) {
  REQUIRE(found.sizes() == expected.sizes());
  CHECK(torch::allclose(found, expected, 1e-10, 1e-12));
}

const std::vector<KronFactor>& factors_of(const Fit& fit) {
  return dynamic_cast<const KronCurvature&>(*fit.curvature).factors();
}

CurvatureOptions uncorrected() {
  CurvatureOptions options;
  options.correction = Correction::kNone;
  return options;
}

/// x_hat and cotangents of the root's columns at one layer, with all uses or copies: x [n, K, ...],
/// g [R, n, K, ...].
struct Seen {
  Tensor x, g;
};
Seen seen_of(Network& network, const Tensor& x, const Block& wanted) {
  torch::NoGradGuard no_grad;
  Tape tape;
  const auto f = network.forward(x, &tape);
  Seen seen;
  network.backward(
      Softmax().hessian_root(f), tape,
      [&](const Block& block, const Tensor& input, const Tensor& g) {
        if (&block == &wanted) seen = {input, g};
      },
      false);
  return seen;
}

const char* const kImages =
    "input = [2, 4, 4]\nlayer = [{ type = 'conv', out = 3, kernel = 3, padding = 1 }, "
    "{ type = 'polyphase' }, { type = 'tanh' }, { type = 'groupnorm', groups = 3 }, "
    "{ type = 'flatten' }, { type = 'linear', out = 3 }]";

}  // namespace

TEST_CASE("the factors of a tied weight are sums over its uses", "[laplace][repeated]") {
  const auto network = network_of(
      "input = [3]\nlayer = [{ type = 'repeat', times = 4, layer = [{ type = 'linear', out = 3 }, "
      "{ type = 'tanh' }] }]");
  randomise(*network, 1);
  const Samples data{random_tensor({6, 3}, 2), random_labels(6, 3, 4)};
  const auto& weight = *named_blocks(*network)[0];
  const auto seen = seen_of(*network, data.x, weight);
  REQUIRE(seen.x.sizes() == at::IntArrayRef({6, 4, 3}));
  const auto rows = [](const Tensor& t) { return t.reshape({-1, 3}); };
  const auto gram_of = [](const Tensor& r) { return r.t().mm(r).unsqueeze(0); };

  auto options = uncorrected();
  const auto expand = fit_curvature(*network, Softmax(), data, options);
  check_close(factors_of(expand)[0].a.dense(), gram_of(rows(seen.x)) / 6);
  check_close(factors_of(expand)[0].b.dense(), gram_of(rows(seen.g)) / 4);
  options.sharing = Sharing::kReduce;
  const auto reduce = fit_curvature(*network, Softmax(), data, options);
  check_close(factors_of(reduce)[0].a.dense(), gram_of(seen.x.mean(1)) / 6);
  check_close(factors_of(reduce)[0].b.dense(), gram_of(rows(seen.g.sum(2))));
}

TEST_CASE("one use of a repeated layer is the layer", "[laplace][repeated]") {
  const std::string body = "{ type = 'conv', out = 2, kernel = 3, padding = 1 }, { type = 'silu' }",
                    end = ", { type = 'flatten' }, { type = 'linear', out = 3 }]";
  const auto plain = network_of("input = [2, 3, 3]\nlayer = [" + body + end);
  const auto once = network_of(
      "input = [2, 3, 3]\nlayer = [{ type = 'repeat', times = 1, layer = [" + body + "] }" + end);
  randomise(*plain, 1);
  set_parameters(*once, plain->parameters());
  const Samples data{random_tensor({5, 2, 3, 3}, 2), random_labels(5, 3, 4)};
  const auto a = fit_curvature(*plain, Softmax(), data, {}),
             b = fit_curvature(*once, Softmax(), data, {});
  for (size_t m = 0; m < 4; ++m) {
    check_close(factors_of(b)[m].a.dense(), factors_of(a)[m].a.dense());
    check_close(factors_of(b)[m].b.dense(), factors_of(a)[m].b.dense());
  }
}

TEST_CASE("copies: features are averaged and cotangents summed before the factors see them",
          "[laplace][repeated]") {
  const auto single = network_of(kImages);
  randomise(*single, 1);
  const auto averaged = std::make_shared<AveragedNetwork>(*single);  // torch wants it shared
  auto& network = *averaged;
  const Samples data{random_tensor({5, 3, 2, 4, 4}, 2), random_labels(5, 3, 4)};
  const auto& block = *named_blocks(network)[0];
  const auto seen = seen_of(network, data.x, block);
  REQUIRE(seen.x.sizes() == at::IntArrayRef({5, 3, 2, 4, 4}));
  const auto& conv = *block.one_copy();
  const auto phi = conv.phi(seen.x.mean(1)).reshape({-1, 18});
  const auto g = conv.to_positions(fold(seen.g.sum(2))).reshape({-1, 3});

  auto options = uncorrected();
  const auto reduce = fit_curvature(network, Softmax(), data, options);
  check_close(factors_of(reduce)[0].a.dense(), phi.t().mm(phi).unsqueeze(0) / 5);
  check_close(factors_of(reduce)[0].b.dense(), g.t().mm(g).unsqueeze(0) / 16);

  options.copies = Sharing::kExpand;
  options.positions = Positions::kAll;
  const auto expand = fit_curvature(network, Softmax(), data, options);
  const auto all = block.phi(seen.x).reshape({-1, 18}),
             each = block.to_positions(fold(seen.g)).reshape({-1, 3});
  check_close(factors_of(expand)[0].a.dense(), all.t().mm(all).unsqueeze(0) / 5);
  check_close(factors_of(expand)[0].b.dense(), each.t().mm(each).unsqueeze(0) / 48);

  options.positions = Positions::kSelected;  // a phase of each copy, where cotangents are not zero
  const auto selected = fit_curvature(network, Softmax(), data, options);
  const auto kept = all.masked_select((each.view({-1, 240, 3}).abs().amax({0, 2}) > 0).unsqueeze(1))
                        .view({-1, 18});
  REQUIRE(kept.size(0) == 240 / 4);
  check_close(factors_of(selected)[0].a.dense(), kept.t().mm(kept).unsqueeze(0) / 5);
  check_close(factors_of(selected)[0].b.dense(), each.t().mm(each).unsqueeze(0) / 12);
}

TEST_CASE("copies that are all the same change nothing", "[laplace][repeated]") {
  const auto single = network_of(kImages);
  randomise(*single, 1);
  const auto averaged = std::make_shared<AveragedNetwork>(*single);
  auto& network = *averaged;
  const auto x = random_tensor({7, 2, 4, 4}, 2), y = random_labels(7, 3, 4);
  const Samples one{x, y}, same{x.unsqueeze(1).expand({-1, 3, -1, -1, -1}), y};
  for (const auto structure : {Structure::kKron, Structure::kEkfac, Structure::kDiag,
                               Structure::kBlock, Structure::kFull, Structure::kLastLayer})
    for (const auto bias : {BiasCurvature::kExact, BiasCurvature::kJoint}) {
      CAPTURE(static_cast<int>(structure), static_cast<int>(bias));
      auto options = options_of(structure);
      options.bias = bias;
      options.positions = Positions::kAll;  // copies keep those of any of them
      const auto a = fit_curvature(*single, Softmax(), one, options),
                 b = fit_curvature(network, Softmax(), same, options);
      CHECK(b.log_likelihood == Approx(a.log_likelihood).epsilon(1e-12));
      const auto priors = layerwise_priors(*a.curvature, 0.3);
      CHECK(evaluate_evidence(b, Softmax(), priors).log_evidence ==
            Approx(evaluate_evidence(a, Softmax(), priors).log_evidence).epsilon(1e-10));
      check_close(output_distribution(network, same.x, *b.curvature, priors).covariance,
                  output_distribution(*single, one.x, *a.curvature, priors).covariance);
    }
}

TEST_CASE("an averaged network has the weights and names of the one it is made from",
          "[laplace][repeated]") {
  const auto single = network_of(kImages);
  randomise(*single, 1);
  const auto averaged = std::make_shared<AveragedNetwork>(*single);
  auto& network = *averaged;
  const auto of_single = single->named_parameters(), of_averaged = network.named_parameters();
  REQUIRE(of_averaged.size() == of_single.size());
  for (const auto& item : of_single) CHECK(of_averaged[item.key()].is_same(item.value()));
  const auto x = random_tensor({2, 3, 2, 4, 4}, 2);
  check_close(network.forward(x), single->forward(x.flatten(0, 1)).view({2, 3, 3}).mean(1));
  CHECK_THROWS_WITH(network.forward(x.flatten(0, 1)), Contains("[N, K, 2, 4, 4]"));
}
