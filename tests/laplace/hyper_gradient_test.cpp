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
    evaluate_evidence(at, *likelihood, priors, temperature);  // sets the scale
    const auto cotangents = log_det_cotangents(at, precisions_of(priors, *at.curvature));
    const auto x = data.x.detach().clone().requires_grad_();
    for (int64_t begin = 0; begin < data.count(); begin += batch) {
      const auto count = std::min(batch, data.count() - begin);
      Samples part = {x.narrow(0, begin, count), data.y.narrow(0, begin, count), 0};
      // The batch stands for as many samples as it does in the whole.
      part.total = static_cast<int64_t>(std::llround(data.weight() * static_cast<double>(count)));
      evidence_surrogate(*network, *likelihood, part, at, cotangents, temperature, options)
          .backward();
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

TEST_CASE("the evidence's gradient in a hyper-parameter of the features", "[hyper]") {
  for (const bool bends : {false, true})  // before it and behind it another layer
    for (const auto bias : {BiasCurvature::kExact, BiasCurvature::kJoint}) {
      CAPTURE(bends, bias);
      const auto network = std::make_shared<Network>(std::vector<int64_t>{6});
      const auto first =
          network_of("input = [6]\nlayer = [{ type = 'linear', out = 5 }, { type = '" +
                     std::string(bends ? "tanh" : "relu") + "' }]");
      const auto layer = std::make_shared<blurred::BlurredLinear>(5, 4, 0.8);
      network->append(first);
      network->append(layer);
      network->append(std::make_shared<Activation>(bends ? "silu" : "relu"));
      network->append(std::make_shared<blurred::BlurredLinear>(4, 3, 0.5));
      network->set_outputs(3);
      randomise(*network, 3);
      network->eval();
      auto p = problem_of(network, random_tensor({9, 6}, 2), "classification");
      p.options.bias = bias;
      set_priors(p);
      const auto at = p.fit(p.data.x);
      evaluate_evidence(at, *p.likelihood, p.priors, p.temperature);
      const auto cotangents = log_det_cotangents(at, precisions_of(p.priors, *at.curvature));
      evidence_surrogate(*network, *p.likelihood, p.data, at, cotangents, p.temperature, p.options)
          .backward();
      const auto leaf = layer->log_bandwidth;
      const auto evidence_at = [&](double step) {
        torch::NoGradGuard no_grad;
        leaf.add_(step);
        const double value = p.log_evidence(p.data.x);
        leaf.sub_(step);
        return value;
      };
      constexpr double h = 1e-5;
      CHECK(leaf.grad().item<double>() ==
            Approx((evidence_at(h) - evidence_at(-h)) / (2 * h)).epsilon(2e-6));
    }
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
      p.data.total = 24;
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
  const auto cotangents = log_det_cotangents(fit, precisions_of(p.priors, *fit.curvature));
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
    CHECK_THROWS_AS(log_det_cotangents(fit, precisions_of(p.priors, *fit.curvature)), UsageError);
  }
  p.options.structure = Structure::kKron;
  const auto fit = p.fit(p.data.x);
  const auto cotangents = log_det_cotangents(fit, precisions_of(p.priors, *fit.curvature));
  p.options.fisher = Fisher::kEmpirical;
  CHECK_THROWS_AS(
      evidence_surrogate(*p.network, *p.likelihood, p.data, fit, cotangents, 1, p.options),
      UsageError);
}
