// Every structure of curvature against the dense GGN of autograd Jacobians, for every layer.
#include "tests/catch.h"

#include "core/error.h"
#include "tests/laplace/brute_force.h"

using namespace evariste;

namespace {

constexpr int64_t kSamples = 5;

void check_close(const Tensor& found, const Tensor& expected, double tolerance = 1e-10) {
  REQUIRE(found.sizes() == expected.sizes());
  // The floor: diag p - p p^T of a saturated network is the difference of two numbers near 1.
  const auto scale = std::max(1e-2, expected.abs().max().item<double>());
  const auto error = (found - expected).abs().max().item<double>();
  INFO(fmt::format("error {:.3g}, scale {:.3g}", error, scale));
  CHECK(error < tolerance * scale);
}

Samples samples_of(const LayerExample& example, int64_t n = kSamples) {
  return {example.inputs(n), random_labels(n, 3, 4)};
}

bool shares_bias_over_groups(const Network& network) {
  bool shared = false;
  for (const auto* block : named_blocks(const_cast<Network&>(network)))
    shared = shared || (block->bias && block->bias->parameters() !=
                                           block->value().size(0) * block->value().size(1));
  return shared;
}

}  // namespace

TEST_CASE("the full curvature is the dense GGN of every network", "[laplace]") {
  for (const auto& example : layer_examples()) {
    CAPTURE(example.type, example.title);
    const auto network = example.build();
    const auto data = samples_of(example);
    const auto fit = fit_curvature(*network, Softmax(), data, options_of(Structure::kFull));
    const auto& full = dynamic_cast<const DenseCurvature&>(*fit.curvature);
    CHECK(full.blocks().size() == network->parameters().size());
    check_close(full.hessian(), dense_ggn(*network, Softmax(), data.x, full.blocks()));
    CHECK(fit.log_likelihood ==
          Approx(Softmax().log_density(network->forward(data.x), data.y).sum().item<double>()));
  }
}

TEST_CASE("the diagonal curvature is the diagonal of the full one", "[laplace]") {
  for (const auto& example : layer_examples()) {
    CAPTURE(example.type, example.title);
    const auto network = example.build();
    const auto data = samples_of(example);
    const auto full = fit_curvature(*network, Softmax(), data, options_of(Structure::kFull));
    const auto diag = fit_curvature(*network, Softmax(), data, options_of(Structure::kDiag));
    const auto& h = dynamic_cast<const DenseCurvature&>(*full.curvature).hessian();
    const auto& diagonals = dynamic_cast<const DiagonalCurvature&>(*diag.curvature).diagonals();
    const auto& blocks = diag.curvature->blocks();
    const auto traces = fisher_traces(*network, Softmax(), data, {});
    for (size_t m = 0; m < blocks.size(); ++m) {
      CAPTURE(blocks[m]->name);
      REQUIRE(diagonals[m].sizes() == blocks[m]->value().sizes());
      check_close(diagonals[m].flatten(), part_of(h, blocks, m).diagonal());
      CHECK(diagonals[m].sum().item<double>() == Approx(traces[m]).epsilon(1e-11));
    }
  }
}

TEST_CASE("Kronecker factors have the exact trace, and say what theirs was", "[laplace]") {
  for (const auto& example : layer_examples()) {
    const auto network = example.build();
    const auto data = samples_of(example);
    for (const auto sharing : {Sharing::kExpand, Sharing::kReduce}) {
      CurvatureOptions options;
      options.sharing = sharing;
      const auto corrected = fit_curvature(*network, Softmax(), data, options);
      options.correction = Correction::kNone;
      const auto plain = fit_curvature(*network, Softmax(), data, options);
      const auto& k = dynamic_cast<const KronCurvature&>(*corrected.curvature).factors();
      const auto& p = dynamic_cast<const KronCurvature&>(*plain.curvature).factors();
      const auto traces = fisher_traces(*network, Softmax(), data, options);
      for (size_t m = 0; m < k.size(); ++m) {
        CAPTURE(example.type, example.title, corrected.curvature->blocks()[m]->name);
        const auto trace = dense_kron(k[m]).trace().item<double>();
        CHECK(trace == Approx(traces[m]).epsilon(1e-10).margin(1e-14));
        CHECK(p[m].correction == 1.0);
        if (trace > 1e-12)
          CHECK(corrected.curvature->trace_ratios()[m] ==
                Approx(dense_kron(p[m]).trace().item<double>() / traces[m]).epsilon(1e-10));
        CHECK(std::isnan(plain.curvature->trace_ratios()[m]));
      }
    }
  }
}

TEST_CASE("for one sample a Kronecker block without sharing is the dense one", "[laplace]") {
  for (const auto& example : layer_examples()) {
    const auto network = example.build();
    const auto data = samples_of(example, 1);
    CurvatureOptions options;
    options.correction = Correction::kNone;
    const auto fit = fit_curvature(*network, Softmax(), data, options);
    const auto& blocks = fit.curvature->blocks();
    const auto& factors = dynamic_cast<const KronCurvature&>(*fit.curvature).factors();
    const auto h = dense_ggn(*network, Softmax(), data.x, blocks);
    std::map<const Block*, int64_t> positions;
    {
      torch::NoGradGuard no_grad;
      Tape tape;
      const auto f = network->forward(data.x, &tape);
      network->backward(
          f.unsqueeze(0), tape,
          [&](const Block& block, const Tensor&, const Tensor& g) {
            positions[&block] = block.to_positions(fold(g)).size(2);
          },
          false);
    }
    for (size_t m = 0; m < blocks.size(); ++m) {
      CAPTURE(example.type, example.title, blocks[m]->name);
      const auto shape = blocks[m]->value().sizes().vec();
      const auto size = shape[1] * shape[2];
      // Sums over positions are exact for biases and for one weight per group.
      if (positions[blocks[m]] > 1 && !blocks[m]->is_bias && size > 1) continue;
      const auto dense = dense_kron(factors[m]), exact = part_of(h, blocks, m);
      for (int64_t q = 0; q < shape[0]; ++q) {
        const auto group = [&](const Tensor& t) {
          return t.narrow(0, q * size, size).narrow(1, q * size, size);
        };
        check_close(group(dense), group(exact));
      }
    }
  }
}

TEST_CASE("exact bias blocks and normalisation weights are exact for any data", "[laplace]") {
  for (const auto& example : layer_examples()) {
    const auto network = example.build();
    const auto data = samples_of(example);
    const auto fit = fit_curvature(*network, Softmax(), data, {});
    const auto& blocks = fit.curvature->blocks();
    const auto& factors = dynamic_cast<const KronCurvature&>(*fit.curvature).factors();
    const auto h = dense_ggn(*network, Softmax(), data.x, blocks);
    for (size_t m = 0; m < blocks.size(); ++m) {
      CAPTURE(example.type, example.title, blocks[m]->name);
      const auto exact = part_of(h, blocks, m), dense = dense_kron(factors[m]);
      const auto shape = blocks[m]->value().sizes().vec();
      if (blocks[m]->is_bias) check_close(dense, exact);
      if (shape[1] * shape[2] == 1) check_close(dense.diagonal(), exact.diagonal());
    }
  }
}

TEST_CASE("a last-layer curvature is a part of the full one", "[laplace]") {
  for (const auto& example : layer_examples()) {
    CAPTURE(example.type, example.title);
    const auto network = example.build();
    const auto data = samples_of(example);
    const auto last = fit_curvature(*network, Softmax(), data, options_of(Structure::kLastLayer));
    const auto& curvature = dynamic_cast<const DenseCurvature&>(*last.curvature);
    REQUIRE(curvature.blocks().size() == 2);
    check_close(curvature.hessian(), dense_ggn(*network, Softmax(), data.x, curvature.blocks()));
    CHECK(curvature.structure() == "lastlayer");
  }
}

TEST_CASE("a last layer with many positions, and one without bias, are parts of the full one",
          "[laplace]") {
  for (const std::string layers :
       {"{ type = 'conv', out = 3, kernel = 3 }, { type = 'global_avgpool' }",
        "{ type = 'flatten' }, { type = 'linear', out = 3, bias = false }"}) {
    CAPTURE(layers);
    const auto network = network_of(
        "input = [2, 5, 5]\nlayer = [{ type = 'conv', out = 2, kernel = 2 }, " + layers + "]");
    randomise(*network, 1);
    const Samples data{random_tensor({9, 2, 5, 5}, 2), random_labels(9, 3, 3)};
    const auto full = fit_curvature(*network, Softmax(), data, options_of(Structure::kFull));
    const auto last = fit_curvature(*network, Softmax(), data, options_of(Structure::kLastLayer));
    const auto& whole = dynamic_cast<const DenseCurvature&>(*full.curvature).hessian();
    const auto& part = dynamic_cast<const DenseCurvature&>(*last.curvature).hessian();
    const auto begin = whole.size(0) - part.size(0);
    check_close(part, whole.slice(0, begin).slice(1, begin));
  }
}

TEST_CASE("joint blocks have the full curvature of weights and biases", "[laplace]") {
  for (const auto& example : layer_examples()) {
    CAPTURE(example.type, example.title);
    const auto network = example.build();
    const auto data = samples_of(example);
    auto options = options_of(Structure::kFull);
    const auto apart = fit_curvature(*network, Softmax(), data, options);
    options.bias = BiasCurvature::kJoint;
    if (shares_bias_over_groups(*network)) {
      CHECK_THROWS_AS(fit_curvature(*network, Softmax(), data, options), UsageError);
      continue;
    }
    const auto joint = fit_curvature(*network, Softmax(), data, options);
    int64_t parameters = 0;
    for (const auto* block : joint.curvature->blocks()) parameters += block->parameters();
    int64_t expected = 0;
    for (const auto& p : network->parameters()) expected += p.numel();
    CHECK(parameters == expected);
    const auto ratio = [](const Fit& fit) {
      return fit.curvature->log_det_ratio(
          precisions_of(layerwise_priors(*fit.curvature, 0.7), *fit.curvature));
    };
    CHECK(ratio(joint) == Approx(ratio(apart)).epsilon(1e-10));
    options.structure = Structure::kKron;
    CHECK_NOTHROW(fit_curvature(*network, Softmax(), data, options));
  }
}

TEST_CASE("all likelihoods give the GGN of their Hessian", "[laplace]") {
  const auto network = network_of(
      "input = [3]\nlayer = [{ type = 'linear', out = 4 }, { type = 'tanh' }, "
      "{ type = 'linear', out = 2 }]");
  randomise(*network, 1);
  const auto x = random_tensor({6, 3}, 2), target = random_tensor({6, 2}, 3);
  const std::vector<std::pair<std::shared_ptr<Likelihood>, Tensor>> cases = {
      {std::make_shared<Softmax>(), target.argmax(1)},
      {std::make_shared<Gaussian>(0.3), target},
      {std::make_shared<Bernoulli>(), target.sigmoid()}};
  for (const auto& [likelihood, y] : cases) {
    CAPTURE(likelihood->name());
    const auto fit = fit_curvature(*network, *likelihood, {x, y}, options_of(Structure::kFull));
    const auto& h = dynamic_cast<const DenseCurvature&>(*fit.curvature).hessian();
    check_close(likelihood->curvature_scale() * h,
                dense_ggn(*network, *likelihood, x, fit.curvature->blocks()));
  }
}

TEST_CASE("combinations that are not defined are refused", "[laplace]") {
  const auto grouped = network_of(
      "input = [2, 3, 3]\nlayer = [{ type = 'conv', out = 2, kernel = 2, groups = 2 }, "
      "{ type = 'flatten' }, { type = 'dropout' }, { type = 'linear', out = 3 }]");
  randomise(*grouped, 1);
  const Samples data{random_tensor({4, 2, 3, 3}, 2), random_labels(4, 3, 3)};
  CurvatureOptions options;
  options.bias = BiasCurvature::kExpand;
  CHECK_THROWS_AS(fit_curvature(*grouped, Softmax(), data, options), UsageError);
  options.sharing = Sharing::kReduce;
  CHECK_THROWS_AS(fit_curvature(*grouped, Softmax(), data, options), UsageError);
  grouped->train();
  CHECK_THROWS_WITH(fit_curvature(*grouped, Softmax(), data, {}), Contains("dropout"));
  grouped->eval();
  const auto coupled =
      network_of("input = [2]\nlayer = [{ type = 'linear', out = 3 }, { type = 'batchnorm' }]");
  coupled->train();
  CHECK_THROWS_WITH(
      fit_curvature(*coupled, Softmax(), {random_tensor({4, 2}, 2), random_labels(4, 3, 3)}, {}),
      Contains("batchnorm"));
  torch::NoGradGuard no_grad;
  grouped->parameters()[0].fill_(std::numeric_limits<double>::quiet_NaN());
  CHECK_THROWS_AS(fit_curvature(*grouped, Softmax(), data, {}), NumericalError);
}
