// Fitting priors by the evidence: MacKay's fixed point, reached by Newton and by Adam.
#include "tests/catch.h"

#include "laplace/prior_fit.h"
#include "tests/laplace/brute_force.h"

using namespace evariste;

namespace {

struct Model {
  std::shared_ptr<Network> network = network_of(
      "input = [1, 4, 4]\nlayer = [{ type = 'conv', out = 2, kernel = 3 }, { type = 'tanh' }, "
      "{ type = 'flatten' }, { type = 'linear', out = 3 }]");
  Samples data{random_tensor({20, 1, 4, 4}, 2), random_labels(20, 3, 3)};
  Model() { randomise(*network, 1); }

  Fit fit(Structure structure) const {
    return fit_curvature(*network, Softmax(), data, options_of(structure));
  }
};

const std::vector<Structure> kStructures = {Structure::kKron, Structure::kDiag, Structure::kFull,
                                            Structure::kLastLayer};

Priors entrywise_priors(const Curvature& curvature) {
  Priors priors;
  for (const auto* block : curvature.blocks())
    priors.emplace_back(DiagonalGaussian(1.0, block->value().sizes()));
  return priors;
}

Tensor rho_of(const Prior& prior) { return prior.hyperparameters()[0].second.detach(); }

}  // namespace

TEST_CASE("Newton's fixed point has no evidence gradient left", "[prior]") {
  const Model model;
  for (const auto structure : kStructures) {
    for (const double start : {1e-3, 1.0, 1e4}) {
      const auto fit = model.fit(structure);
      const auto priors = layerwise_priors(*fit.curvature, start);
      const auto iterations = fit_priors_newton(priors, *fit.curvature);
      CHECK(iterations < 100);
      const auto e = evaluate_evidence(fit, Softmax(), priors);
      for (const auto& block : e.blocks) {
        CAPTURE(static_cast<int>(structure), start, block.name, block.prior_precision);
        CHECK(block.evidence_gradient ==
              Approx(0).margin(1e-8 * static_cast<double>(block.parameters)));
        CHECK(block.prior_precision * block.squared_norm ==
              Approx(block.effective_dimension).epsilon(1e-6));
      }
    }
  }
}

TEST_CASE("one precision per entry: every entry is at its fixed point or at a bound", "[prior]") {
  const Model model;
  for (const auto structure : {Structure::kDiag, Structure::kFull}) {
    const auto fit = model.fit(structure);
    const auto priors = entrywise_priors(*fit.curvature);
    fit_priors_newton(priors, *fit.curvature);
    const auto precisions = precisions_of(priors, *fit.curvature);
    const auto log_dets = fit.curvature->log_det(precisions);
    int64_t interior = 0;
    for (size_t m = 0; m < priors.size(); ++m) {
      CAPTURE(static_cast<int>(structure), m);
      const auto theta = fit.curvature->blocks()[m]->value().detach();
      const auto gradient = 0.5 * (log_dets[m].entries - precisions[m] * theta.square());
      const auto rho = precisions[m].log();
      const auto inside = (rho < kHighestLogPrecision - 1e-9) & (rho > kLowestLogPrecision + 1e-9);
      interior += inside.sum().item<int64_t>();
      CHECK(torch::where(inside, gradient, torch::zeros_like(gradient)).abs().max().item<double>() <
            1e-6);
    }
    CHECK(interior > 5);
  }
}

TEST_CASE("a Gamma hyper-prior moves the fixed point by its shape and rate", "[prior]") {
  const Model model;
  constexpr double kShape = 1.5, kRate = 0.3;
  for (const auto structure : kStructures) {
    const auto fit = model.fit(structure);
    Priors priors;
    for (size_t m = 0; m < fit.curvature->blocks().size(); ++m)
      priors.emplace_back(GammaGaussian(1.0, kShape, kRate));
    fit_priors_newton(priors, *fit.curvature);
    for (const auto& block : evaluate_evidence(fit, Softmax(), priors).blocks) {
      CAPTURE(static_cast<int>(structure), block.name);
      CHECK(block.prior_precision ==
            Approx((block.effective_dimension + 2 * kShape) / (block.squared_norm + 2 * kRate)));
    }
  }
}

TEST_CASE("Adam reaches the same precisions", "[prior]") {
  const Model model;
  for (const auto structure : kStructures) {
    const auto fit = model.fit(structure);
    const auto newton = layerwise_priors(*fit.curvature, 1.0);
    const auto adam = layerwise_priors(*fit.curvature, 1.0);
    fit_priors_newton(newton, *fit.curvature);
    AdamPriorFit(0.1).step(adam, *fit.curvature, structure == Structure::kFull ? 600 : 2000);
    for (size_t m = 0; m < newton.size(); ++m) {
      CAPTURE(static_cast<int>(structure), m);
      CHECK((rho_of(adam[m]) - rho_of(newton[m])).abs().item<double>() < 1e-4);
    }
  }
}

TEST_CASE("the fixed point is a maximum of the evidence", "[prior]") {
  const Model model;
  for (const auto structure : kStructures) {
    CAPTURE(static_cast<int>(structure));
    const auto fit = model.fit(structure);
    const auto priors = layerwise_priors(*fit.curvature, 1.0);
    fit_priors_newton(priors, *fit.curvature);
    const auto best = evaluate_evidence(fit, Softmax(), priors).log_evidence;
    torch::NoGradGuard no_grad;
    for (const auto& prior : priors) {
      auto rho = prior.hyperparameters()[0].second;
      for (const double step : {0.1, -0.2, 0.1}) {  // there, beyond, and back
        rho.add_(step);
        CHECK(evaluate_evidence(fit, Softmax(), priors).log_evidence <= best + 1e-9);
      }
    }
  }
}

TEST_CASE("one prior for all blocks is fitted to all of them", "[prior]") {
  const Model model;
  for (const auto structure : kStructures) {
    CAPTURE(static_cast<int>(structure));
    const auto fit = model.fit(structure);
    const Priors priors(fit.curvature->blocks().size(), Prior(IsotropicGaussian(3.0)));
    fit_priors_newton(priors, *fit.curvature);
    const auto e = evaluate_evidence(fit, Softmax(), priors);
    double gradient = 0;
    for (const auto& block : e.blocks) gradient += block.evidence_gradient;
    CHECK(gradient == Approx(0).margin(1e-7));
    const Priors adam(priors.size(), Prior(IsotropicGaussian(3.0)));
    AdamPriorFit(0.1).step(adam, *fit.curvature, structure == Structure::kFull ? 600 : 2000);
    CHECK(rho_of(adam[0]).item<double>() == Approx(rho_of(priors[0]).item<double>()).margin(1e-4));
  }
}

TEST_CASE("trust region, raising only, and bounds", "[prior]") {
  const Model model;
  const auto fit = model.fit(Structure::kKron);
  const auto free = layerwise_priors(*fit.curvature, 1e3),
             near = layerwise_priors(*fit.curvature, 1e3),
             raised = layerwise_priors(*fit.curvature, 1e3);
  fit_priors_newton(free, *fit.curvature);
  NewtonOptions options;
  options.trust_region = 2;
  fit_priors_newton(near, *fit.curvature, options);
  options = {};
  options.only_raise = true;
  fit_priors_newton(raised, *fit.curvature, options);
  const double start = std::log(1e3);
  for (size_t m = 0; m < free.size(); ++m) {
    const auto rho = rho_of(free[m]).item<double>();
    CHECK(rho_of(near[m]).item<double>() == Approx(std::clamp(rho, start - 2, start + 2)));
    CHECK(rho_of(raised[m]).item<double>() == Approx(std::max(rho, start)));
  }
  CHECK(rho_of(free[0]).item<double>() < start - 2);

  torch::NoGradGuard no_grad;
  for (const auto& p : model.network->parameters()) p.zero_();
  const auto empty = model.fit(Structure::kKron);
  const auto pruned = layerwise_priors(*empty.curvature, 1.0);
  fit_priors_newton(pruned, *empty.curvature);
  for (const auto& prior : pruned) CHECK(rho_of(prior).item<double>() == kHighestLogPrecision);
}

TEST_CASE("Adam goes on from its state", "[prior]") {
  const Model model;
  const auto fit = model.fit(Structure::kDiag);
  const auto whole = layerwise_priors(*fit.curvature, 2.0),
             parts = layerwise_priors(*fit.curvature, 2.0);
  AdamPriorFit(0.1).step(whole, *fit.curvature, 20);
  AdamPriorFit first(0.1), second(0.1);
  first.step(parts, *fit.curvature, 13);
  second.set_state(first.state());
  second.step(parts, *fit.curvature, 7);
  for (size_t m = 0; m < whole.size(); ++m) CHECK(torch::equal(rho_of(whole[m]), rho_of(parts[m])));
}
