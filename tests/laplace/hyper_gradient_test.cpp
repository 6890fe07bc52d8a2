// The gradient of the evidence in what the inputs and the features depend on, against central
// differences of the evidence fitted anew.
#include "tests/catch.h"

#include <torch/csrc/autograd/autograd.h>

#include "core/error.h"
#include "examples/blurred_linear.h"
#include "laplace/evidence.h"
#include "laplace/hyper_gradient.h"
#include "laplace/priors/builtin.h"
#include "nn/pointwise.h"
#include "tests/nn/layer_examples.h"

using namespace evariste;

namespace {

struct Problem {
  std::shared_ptr<Network> network;
  std::unique_ptr<Likelihood> likelihood;
  Samples data;
  Priors priors;
  CurvatureOptions options;
  double temperature = 0.8;

  Fit fit(const Tensor& x) const {
    return fit_curvature(*network, *likelihood, {x, data.y, data.total}, options);
  }
  double log_evidence(const Tensor& x) const {
    const auto at = fit(x);
    return evaluate_evidence(at, *likelihood, priors, temperature).log_evidence;
  }
  /// d log q/d x by the surrogate, in batches of `batch`.
  Tensor gradient(int64_t batch) const {
    const auto at = fit(data.x);
    const auto cotangents = log_det_cotangents(at, *likelihood, priors, temperature);
    const auto x = data.x.detach().clone().requires_grad_();
    for (int64_t begin = 0; begin < data.count(); begin += batch) {
      const auto count = std::min(batch, data.count() - begin);
      const Samples part = {x.narrow(0, begin, count), data.y.narrow(0, begin, count)};
      evidence_surrogate(*network, *likelihood, part, at, cotangents, options).backward();
    }
    return x.grad();
  }
};

Problem problem_of(std::shared_ptr<Network> network, const Tensor& x, std::string_view likelihood) {
  Problem p;
  p.network = std::move(network);
  p.likelihood = make_likelihood(likelihood, 0.7);
  const auto outputs = p.network->outputs();
  auto y = torch::arange(x.size(0)) % outputs;
  p.data = {x, y, 0};
  if (p.likelihood->is_regression()) p.data.y = random_tensor({x.size(0), outputs}, 9);
  if (likelihood == "bernoulli") p.data.y = random_tensor({x.size(0), outputs}, 9).sigmoid();
  return p;
}

void set_priors(Problem& p) {
  p.priors.clear();
  std::vector<std::shared_ptr<Block>> owned;
  double precision = 0.3;
  for (size_t m = 0; m < curvature_blocks(*p.network, p.options, owned).size(); ++m)
    p.priors.emplace_back(IsotropicGaussian(precision *= 1.4));
}

/// Along a random direction v: d log q.v against (q(x + h v) - q(x - h v))/2h.
void check_gradient(const Problem& p, int64_t batch = 100) {
  const auto v = random_tensor(p.data.x.sizes(), 11);
  constexpr double h = 1e-5;
  const auto difference =
      (p.log_evidence(p.data.x + h * v) - p.log_evidence(p.data.x - h * v)) / (2 * h);
  CHECK((p.gradient(batch) * v).sum().item<double>() ==
        Approx(difference).epsilon(2e-6).margin(1e-6));
}

}  // namespace

TEST_CASE("the evidence's gradient in the inputs is its central difference, for every layer",
          "[hyper]") {
  for (const auto& example : layer_examples()) {
    CAPTURE(example.type, example.title);
    auto p = problem_of(example.build(), example.inputs(5), "classification");
    set_priors(p);
    check_gradient(p);
  }
}

TEST_CASE("the evidence's gradient holds for every option of a Kronecker fit", "[hyper]") {
  const std::string conv = "{ type = 'conv', out = 3, kernel = 3, padding = 1 }, ";
  const LayerExample nets[] = {
      {"", "bends", "[2, 4, 4]",
       conv + "{ type = 'tanh' }, { type = 'conv', out = 2, kernel = 2, groups = 1 }"},
      {"", "does not", "[2, 4, 4]",
       conv + "{ type = 'polyphase' }, { type = 'relu' }, { type = 'conv', out = 4, kernel = 2 }, "
              "{ type = 'relu' }"}};
  for (const auto& net : nets)
    for (const auto sharing : {Sharing::kExpand, Sharing::kReduce})
      for (const auto bias : {BiasCurvature::kExact, BiasCurvature::kExpand, BiasCurvature::kJoint})
        for (const auto correction : {Correction::kTrace, Correction::kNone})
          for (const auto positions : {Positions::kSelected, Positions::kAll}) {
            if (bias == BiasCurvature::kExpand && sharing == Sharing::kReduce) continue;
            CAPTURE(net.title, sharing, bias, correction, positions);
            auto p = problem_of(net.build(), net.inputs(6), "classification");
            p.options.sharing = sharing;
            p.options.bias = bias;
            p.options.correction = correction;
            p.options.positions = positions;
            set_priors(p);
            check_gradient(p);
          }
}

TEST_CASE(
    "the evidence's gradient holds for copies, repeats and norms however their factors are made",
    "[hyper]") {
  for (const auto& example : layer_examples()) {
    const bool is_norm = example.type.find("norm") != std::string::npos;
    if (example.copies == 0 && example.type != "repeat" && !is_norm) continue;
    for (const auto sharing : {Sharing::kExpand, Sharing::kReduce})
      for (const auto copies : {Sharing::kExpand, Sharing::kReduce})
        for (const auto bias : {BiasCurvature::kExact, BiasCurvature::kJoint}) {
          if (example.copies == 0 && copies == Sharing::kExpand) continue;
          if (example.type == "repeat" && bias == BiasCurvature::kJoint &&
              example.layers.find("factored_fc") != std::string::npos)
            continue;  // groups share a bias
          CAPTURE(example.type, example.title, sharing, copies, bias);
          auto p = problem_of(example.build(), example.inputs(5), "classification");
          p.options.sharing = sharing;
          p.options.copies = copies;
          p.options.bias = bias;
          p.options.norm = NormCurvature::kJoint;
          set_priors(p);
          check_gradient(p, /*batch=*/2);
        }
  }
}

namespace {

/// Gradients of the surrogate in leaves against central differences of the evidence fitted anew.
void check_leaves(const Problem& p, const std::vector<Tensor>& leaves, double h = 1e-5) {
  const auto at = p.fit(p.data.x);
  const auto cotangents = log_det_cotangents(at, *p.likelihood, p.priors, p.temperature);
  evidence_surrogate(*p.network, *p.likelihood, p.data, at, cotangents, p.options).backward();
  for (size_t i = 0; i < leaves.size(); ++i) {
    CAPTURE(i);
    const auto leaf = leaves[i];
    REQUIRE(leaf.grad().defined());
    for (int64_t entry = 0; entry < leaf.numel(); ++entry) {
      CAPTURE(entry);
      const auto evidence_at = [&](double step) {
        torch::NoGradGuard no_grad;
        auto at_entry = leaf.flatten()[entry];
        at_entry.add_(step);
        const double value = p.log_evidence(p.data.x);
        at_entry.sub_(step);
        return value;
      };
      CHECK(leaf.grad().flatten()[entry].item<double>() ==
            Approx((evidence_at(h) - evidence_at(-h)) / (2 * h)).epsilon(2e-6));
    }
  }
}

/// linear, activation, blurred, activation, blurred.
struct Blurred {
  std::shared_ptr<Network> network = std::make_shared<Network>(std::vector<int64_t>{6});
  std::shared_ptr<blurred::BlurredLinear> middle, last;

  explicit Blurred(bool bends, bool is_shared = false)
      : middle(std::make_shared<blurred::BlurredLinear>(5, 4, 0.8)),
        last(is_shared ? std::make_shared<blurred::BlurredLinear>(4, 3, middle->log_bandwidth)
                       : std::make_shared<blurred::BlurredLinear>(4, 3, 0.5)) {
    network->append(network_of("input = [6]\nlayer = [{ type = 'linear', out = 5 }, { type = '" +
                               std::string(bends ? "tanh" : "relu") + "' }]"));
    network->append(middle);
    network->append(std::make_shared<Activation>(bends ? "silu" : "relu"));
    network->append(last);
    network->set_outputs(3);
    randomise(*network, 3);
    network->eval();
  }
};

}  // namespace

TEST_CASE("the evidence's gradient in a hyper-parameter of the features", "[hyper]") {
  for (const bool bends : {false, true})
    for (const auto bias : {BiasCurvature::kExact, BiasCurvature::kJoint}) {
      CAPTURE(bends, bias);
      const Blurred net(bends);
      auto p = problem_of(net.network, random_tensor({9, 6}, 2), "classification");
      p.options.bias = bias;
      set_priors(p);
      check_leaves(p, {net.middle->log_bandwidth, net.last->log_bandwidth});
    }
}

TEST_CASE("a hyper-parameter that two layers share has one gradient", "[hyper]") {
  const Blurred net(true, /*is_shared=*/true);
  auto p = problem_of(net.network, random_tensor({9, 6}, 2), "classification");
  set_priors(p);
  check_leaves(p, {net.middle->log_bandwidth});
}

TEST_CASE("a hyper-parameter below the chosen blocks, and one that is a parameter", "[hyper]") {
  const Blurred net(true);
  net.network->register_parameter("bandwidth", net.middle->log_bandwidth);
  auto p = problem_of(net.network, random_tensor({9, 6}, 2), "classification");
  p.options.only = {"3"};
  set_priors(p);
  check_leaves(p, {net.middle->log_bandwidth, net.last->log_bandwidth});
}

TEST_CASE("the evidence's gradient in the bandwidth of anchors", "[hyper]") {
  for (const std::string layer :
       {"{ type = 'sparse_conv', out = 3, kernel = 3, padding = 1, padding_mode = 'circular', "
        "learn_omega = true }, { type = 'polyphase' }",
        "{ type = 'sparse_fc', out = 3, stride = 2, learn_omega = true }",
        "{ type = 'sum', of = [{ type = 'sparse_fc', out = 3, learn_omega = true }, "
        "{ type = 'sparse_conv', out = 3, kernel = 3, padding = 1, learn_omega = true }] }"})
    for (const auto sharing : {Sharing::kExpand, Sharing::kReduce}) {
      CAPTURE(layer, static_cast<int>(sharing));
      auto p = problem_of(
          network_of("input = [2, 4, 4]\nlayer = [" + layer +
                     ", { type = 'tanh' }, { type = 'flatten' }, { type = 'linear', out = 3 }]"),
          random_tensor({6, 2, 4, 4}, 2), "classification");
      randomise(*p.network, 3);
      p.options.sharing = sharing;
      set_priors(p);
      std::vector<Tensor> leaves;
      for (const auto& item : p.network->named_parameters())
        if (item.key().ends_with("log_omega")) leaves.push_back(item.value());
      REQUIRE(!leaves.empty());
      check_leaves(p, leaves, 1e-6);
    }
}

TEST_CASE("the evidence's gradient in a degree of equivariance", "[hyper]") {
  for (const std::string layers :
       {"{ type = 'steerable_conv', group = 'C4', out = '1 regular', degree = 2, padding = 1 }, "
        "{ type = 'tanh' }, { type = 'steerable_conv', out = '2 trivial', degree = 1 }",
        "{ type = 'steerable_conv', group = 'O(2)', out = ['1 trivial', '1 (1,1)'], degree = 1, "
        "isotypic = '<2' }, { type = 'gated', activation = 'tanh' }",
        "{ type = 'steerable_conv', group = 'D2', out = '1 regular', degree = 1, padding = 1 }, "
        "{ type = 'relu' }"})
    for (const auto sharing : {Sharing::kExpand, Sharing::kReduce}) {
      CAPTURE(layers, static_cast<int>(sharing));
      auto p = problem_of(network_of("input = [2, 4, 4]\nlayer = [" + layers +
                                     ", { type = 'flatten' }, { type = 'linear', out = 3 }]"),
                          random_tensor({6, 2, 4, 4}, 2), "classification");
      randomise(*p.network, 3);
      p.options.sharing = sharing;
      set_priors(p);
      std::vector<Tensor> leaves;
      for (const auto& item : p.network->named_parameters())
        if (item.key().ends_with("degree")) leaves.push_back(item.value());
      REQUIRE(!leaves.empty());
      check_leaves(p, leaves, 1e-6);
    }
}

TEST_CASE("a float32 network has the gradient of a float64 one", "[hyper]") {
  const Blurred net(true);
  auto p = problem_of(net.network, random_tensor({9, 6}, 2), "classification");
  set_priors(p);
  const auto leaf = net.middle->log_bandwidth;
  const auto gradient = [&] {
    leaf.mutable_grad() = Tensor();
    const auto at = p.fit(p.data.x);
    const auto cotangents = log_det_cotangents(at, *p.likelihood, p.priors, p.temperature);
    evidence_surrogate(*p.network, *p.likelihood, p.data, at, cotangents, p.options).backward();
    return leaf.grad().item<double>();
  };
  const double wide = gradient();
  net.network->to(torch::kFloat32);
  p.data.x = p.data.x.to(torch::kFloat32);
  CHECK(gradient() == Approx(wide).epsilon(1e-4));
}

TEST_CASE("the evidence's gradient holds for every likelihood and for a part of the data",
          "[hyper]") {
  for (const std::string likelihood : {"classification", "regression", "bernoulli"})
    for (const std::string slope : {"tanh", "relu"}) {
      CAPTURE(likelihood, slope);
      auto p =
          problem_of(network_of("input = [4]\nlayer = [{ type = 'linear', out = 6 }, { type = '" +
                                slope + "' }, { type = 'linear', out = 3 }]"),
                     random_tensor({8, 4}, 2), likelihood);
      randomise(*p.network, 3);
      p.data.total = 21;  // 8 samples: no whole number each
      set_priors(p);
      check_gradient(p);
      // Batches add up, and cuts inside a batch change nothing.
      const auto whole = p.gradient(100);
      CHECK(torch::allclose(p.gradient(3), whole, 1e-10, 1e-12));
      p.options.batch = 2;
      CHECK(torch::allclose(p.gradient(100), whole, 1e-10, 1e-12));
    }
}

TEST_CASE("log-determinant cotangents contract to half the effective dimension", "[hyper]") {
  auto p = problem_of(network_of("input = [4]\nlayer = [{ type = 'linear', out = 6 }, "
                                 "{ type = 'tanh' }, { type = 'linear', out = 3 }]"),
                      random_tensor({9, 4}, 2), "classification");
  randomise(*p.network, 3);
  p.options.correction = Correction::kNone;
  set_priors(p);
  const auto fit = p.fit(p.data.x);
  const auto evidence = evaluate_evidence(fit, *p.likelihood, p.priors, 0.7);
  const auto cotangents = log_det_cotangents(fit, *p.likelihood, p.priors, 0.7);
  const auto& factors = dynamic_cast<const KronCurvature&>(*fit.curvature).factors();
  for (size_t m = 0; m < factors.size(); ++m) {
    CAPTURE(evidence.blocks[m].name);
    const double half = 0.5 * evidence.blocks[m].effective_dimension;
    CHECK((cotangents[m].input * factors[m].a.dense()).sum().item<double>() == Approx(half));
    CHECK((cotangents[m].output * factors[m].b.dense()).sum().item<double>() == Approx(half));
  }
}

TEST_CASE("gradients in hyper-parameters refuse what they are not defined for", "[hyper]") {
  auto p = problem_of(network_of("input = [4]\nlayer = [{ type = 'linear', out = 3 }]"),
                      random_tensor({9, 4}, 2), "classification");
  randomise(*p.network, 3);
  set_priors(p);
  for (const auto structure : {Structure::kEkfac, Structure::kDiag}) {
    p.options.structure = structure;
    const auto fit = p.fit(p.data.x);
    CHECK_THROWS_AS(log_det_cotangents(fit, *p.likelihood, p.priors), UsageError);
  }
  p.options.structure = Structure::kKron;
  p.options.bases = false;
  CHECK_THROWS_WITH(log_det_cotangents(p.fit(p.data.x), *p.likelihood, p.priors),
                    Catch::Contains("bases = true"));
  p.options.bases = true;
  const auto fit = p.fit(p.data.x);
  const auto cotangents = log_det_cotangents(fit, *p.likelihood, p.priors);
  const auto surrogate = [&](const Tensor& x) {
    return evidence_surrogate(*p.network, *p.likelihood, {x, p.data.y.narrow(0, 0, x.size(0))}, fit,
                              cotangents, p.options);
  };
  CHECK_THROWS_WITH(surrogate(p.data.x), Catch::Contains("requires a gradient"));
  const auto x = p.data.x.detach().clone().requires_grad_();
  CHECK_THROWS_WITH(surrogate(x.narrow(0, 0, 0)), Catch::Contains("no samples"));
  CHECK_NOTHROW(surrogate(x));
  p.options.rank_tolerance = 0.1;
  CHECK_THROWS_WITH(surrogate(x), Catch::Contains("all its columns"));
  p.options.rank_tolerance = 0;
  p.options.fisher = Fisher::kEmpirical;
  CHECK_THROWS_WITH(surrogate(x), Catch::Contains("fisher exact"));
}
