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

const std::vector<Structure> kStructures = {Structure::kKron, Structure::kEkfac, Structure::kDiag,
                                            Structure::kFull, Structure::kLastLayer};

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
  for (const auto structure : {Structure::kDiag, Structure::kBlock, Structure::kFull}) {
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
  options.far_from_mode = true;
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

namespace {

/// Both pathways of a sum and a bias, at no mode; rows fewer than parameters, so that factors are
/// thin.
struct Pathways {
  std::shared_ptr<Network> network = network_of(
      "input = [1, 4, 4]\nlayer = [{ type = 'sum', of = [{ type = 'conv', out = 2, kernel = 3, "
      "padding = 1, padding_mode = 'circular' }, { type = 'fc', out = 2 }] }, { type = 'tanh' }, "
      "{ type = 'flatten' }, { type = 'linear', out = 3 }]");
  Samples data;
  Fit fit;
  std::vector<Tensor> gradient;

  explicit Pathways(int64_t samples)
      : data{random_tensor({samples, 1, 4, 4}, 2), random_labels(samples, 3, 3)} {
    randomise(*network, 1);
    fit = fit_curvature(*network, Softmax(), data, options_of(Structure::kKron));
    gradient =
        log_likelihood_gradient(*network, Softmax(), data, fit.curvature->blocks(), 8).blocks;
  }
  const KronCurvature& kron() const { return static_cast<const KronCurvature&>(*fit.curvature); }

  /// (H + delta) theta by the dense matrix.
  Tensor slope(size_t m, double delta) const {
    const auto theta = kron().blocks()[m]->value().detach().flatten();
    return dense_kron(kron().factors()[m]).mv(theta) + delta * theta;
  }
};

/// theta(delta) of a block and its norm, by solving.
double predicted_norm(const Pathways& p, size_t m, const Tensor& b, double delta) {
  const auto h = dense_kron(p.kron().factors()[m]);
  return at::linalg_solve(h + delta * torch::eye(h.size(0), torch::kFloat64), b)
      .square()
      .sum()
      .item<double>();
}

}  // namespace

TEST_CASE("the predicted mode is that of the quadratic model", "[prior][profile]") {
  constexpr double kPresent = 0.8;
  for (const int64_t samples : {3, 40}) {
    const Pathways model(samples);
    const auto& blocks = model.kron().blocks();
    const Precisions precisions(blocks.size(), torch::tensor(kPresent, torch::kFloat64));
    std::vector<Tensor> gradient;  // of weights at the mode
    for (const auto* block : blocks) gradient.push_back(kPresent * block->value().detach());
    const auto curves = model.kron().mode_curves(gradient, precisions);
    for (size_t m = 0; m < blocks.size(); ++m) {
      CAPTURE(samples, m);
      const auto& factor = model.kron().factors()[m];
      const auto b = model.slope(m, kPresent);
      for (const double delta : {1e-2, kPresent, 30.0}) {
        const auto sums = mode_sums(factor, curves[m], 1.0, delta);
        CHECK(sums.norm == Approx(predicted_norm(model, m, b, delta)));
        constexpr double kStep = 1e-5;
        const double above = mode_sums(factor, curves[m], 1.0, delta * std::exp(kStep)).norm;
        const double below = mode_sums(factor, curves[m], 1.0, delta * std::exp(-kStep)).norm;
        CHECK(sums.slope == Approx((above - below) / (2 * kStep)).epsilon(1e-6));
      }
    }
  }
}

TEST_CASE("away from the mode the prediction is the product of two estimates, or the smaller",
          "[prior][profile]") {
  constexpr double kPresent = 0.8;
  for (const int64_t samples : {3, 40}) {
    const Pathways model(samples);
    const auto& blocks = model.kron().blocks();
    const Precisions precisions(blocks.size(), torch::tensor(kPresent, torch::kFloat64));
    const auto curves = model.kron().mode_curves(model.gradient, precisions);
    for (size_t m = 0; m < blocks.size(); ++m) {
      CAPTURE(samples, m);
      const auto h = dense_kron(model.kron().factors()[m]);
      const auto theta = blocks[m]->value().detach().flatten();
      for (const double delta : {1e-2, 30.0}) {
        const auto p = h + delta * torch::eye(h.size(0), torch::kFloat64);
        const auto here = at::linalg_solve(p, h.mv(theta) + kPresent * theta);
        const auto ahead = at::linalg_solve(p, h.mv(theta) + model.gradient[m].flatten());
        const double product = here.dot(ahead).item<double>();
        CHECK(mode_sums(model.kron().factors()[m], curves[m], 1.0, delta).norm ==
              Approx(std::max(0.0, product)).margin(1e-12));
      }
      const auto smaller = model.kron().mode_curves(model.gradient, precisions, true)[m];
      const double at = mode_sums(model.kron().factors()[m], smaller, 1.0, 0.5).norm;
      for (const auto& b :
           {h.mv(theta) + kPresent * theta, h.mv(theta) + model.gradient[m].flatten()})
        CHECK(at < predicted_norm(model, m, b, 0.5) * (1 + 1e-9));
      CHECK(at >= 0);
    }
  }
}

TEST_CASE("noise in the weights does not move the fitted precision", "[prior][profile]") {
  // Where the mode is 0, weights that are noise alone would ask for the noise's precision.
  const auto x = random_tensor({300, 60}, 1);
  const auto network =
      network_of("input = [60]\nlayer = [{ type = 'linear', out = 1, bias = false }]");
  const auto noise = 0.3 * random_tensor({1, 60}, 2);
  set_parameters(*network, {noise});
  const Samples data{x, torch::zeros({300, 1}, torch::kFloat64)};
  const Gaussian likelihood(1.0);
  const auto fit = fit_curvature(*network, likelihood, data, options_of(Structure::kKron));
  const auto gradient =
      log_likelihood_gradient(*network, likelihood, data, fit.curvature->blocks(), 100).blocks;
  const auto fixed = layerwise_priors(*fit.curvature, 1.0);
  const auto answering = layerwise_priors(*fit.curvature, 1.0);
  fit_priors_newton(fixed, *fit.curvature);
  NewtonOptions options;
  options.gradient = &gradient;
  fit_priors_newton(answering, *fit.curvature, options);
  CHECK(rho_of(fixed[0]).item<double>() < 3);
  CHECK(rho_of(answering[0]).item<double>() == kHighestLogPrecision);
}

TEST_CASE(
    "with the weights' answer one call ends where the alternation of weights and precisions "
    "does",
    "[prior][profile]") {
  // A linear model with Gaussian noise: its quadratic is exact, and so is the evidence.
  const auto x = random_tensor({30, 6}, 1);
  const auto y = x.mm(random_tensor({6, 1}, 2)) * 0.3 + random_tensor({30, 1}, 3);
  for (const double hyper : {0.0, 1.5}) {
    std::vector<double> reached;
    for (const double start : {1e-3, 1.0, 40.0}) {
      const auto network =
          network_of("input = [6]\nlayer = [{ type = 'linear', out = 1, bias = false }]");
      const Gaussian likelihood(1.0);
      const auto h = x.t().mm(x);
      const auto mode = [&](double delta) {
        return at::linalg_solve(h + delta * torch::eye(6, torch::kFloat64), x.t().mm(y)).t();
      };
      set_parameters(*network, {mode(start)});
      const auto fit = fit_curvature(*network, likelihood, {x, y}, options_of(Structure::kKron));
      const auto gradient =
          log_likelihood_gradient(*network, likelihood, {x, y}, fit.curvature->blocks(), 8).blocks;
      Priors priors;
      if (hyper > 0)
        priors.emplace_back(GammaGaussian(start, hyper, 0.2));
      else
        priors.emplace_back(IsotropicGaussian(start));
      NewtonOptions options;
      options.gradient = &gradient;
      CHECK(fit_priors_newton(priors, *fit.curvature, options) < 100);
      const double delta = rho_of(priors[0]).exp().item<double>();
      reached.push_back(delta);
      // MacKay's fixed point with the mode of the new precision.
      const auto norm = mode(delta).square().sum().item<double>();
      const auto values = torch::linalg_eigvalsh(h);
      const auto effective = (values / (values + delta)).sum().item<double>();
      CHECK(delta == Approx((effective + 2 * hyper) / (norm + (hyper > 0 ? 0.4 : 0.0))));
    }
    CHECK(reached[0] == Approx(reached[1]));
    CHECK(reached[2] == Approx(reached[1]));
  }
}

TEST_CASE(
    "far from a mode a precision goes to the fixed point of the smaller estimate, within trust",
    "[prior][profile]") {
  const Pathways model(40);
  const auto& blocks = model.kron().blocks();
  constexpr double kStart = 0.8;
  const Precisions precisions(blocks.size(), torch::tensor(kStart, torch::kFloat64));
  const auto curves = model.kron().mode_curves(model.gradient, precisions, true);
  NewtonOptions options;
  options.gradient = &model.gradient;
  options.far_from_mode = true;
  const auto priors = layerwise_priors(*model.fit.curvature, kStart);
  fit_priors_newton(priors, *model.fit.curvature, options);
  options.trust_region = 0.3;
  const auto near = layerwise_priors(*model.fit.curvature, kStart);
  fit_priors_newton(near, *model.fit.curvature, options);
  const double start = std::log(kStart);
  int64_t inside = 0, fallen = 0;
  for (size_t m = 0; m < blocks.size(); ++m) {
    CAPTURE(blocks[m]->name);
    const double rho = rho_of(priors[m]).item<double>(), delta = std::exp(rho);
    CHECK(rho_of(near[m]).item<double>() == Approx(std::clamp(rho, start - 0.3, start + 0.3)));
    fallen += rho < start;
    if (rho == kHighestLogPrecision) continue;
    ++inside;
    const auto& factor = model.kron().factors()[m];
    CHECK(delta * mode_sums(factor, curves[m], 1.0, delta).norm ==
          Approx(spectral_sums(factor, 1.0, delta).effective));
  }
  CHECK(inside > 0);
}

namespace {

/// A precision that depends on the weights, as heavy tails have it.
struct HeavyTailed {
  static constexpr std::string_view kName = "heavy-tailed";
  Tensor log_precision = log_leaf(1.0);
  Tensor precision(const Tensor& theta) const {
    return log_precision.exp() / (1 + theta.square().mean());
  }
  Tensor log_density(const Tensor& theta) const {
    return -0.5 * log_precision.exp() * static_cast<double>(theta.numel()) *
           theta.square().mean().log1p();
  }
  NamedTensors hyperparameters() const { return {{"log_precision", log_precision}}; }
};

}  // namespace

TEST_CASE("weights do not answer to a prior whose precision answers to them", "[prior][profile]") {
  const Pathways model(40);
  const Priors priors(model.gradient.size(), Prior(HeavyTailed()));
  NewtonOptions options;
  options.gradient = &model.gradient;
  CHECK_THROWS_WITH(fit_priors_newton(priors, *model.fit.curvature, options),
                    Contains("heavy-tailed") && Contains("newton"));
  options.gradient = nullptr;
  CHECK(fit_priors_newton(priors, *model.fit.curvature, options) < 100);
}

TEST_CASE("one prior of several blocks is fitted to the answers of all", "[prior][profile]") {
  const Pathways model(40);
  const auto blocks = model.gradient.size();
  const IsotropicGaussian shared(2.0);
  const Priors priors(blocks, Prior(shared));
  const auto precisions = precisions_of(priors, *model.fit.curvature);
  const auto curves = model.kron().mode_curves(model.gradient, precisions);
  NewtonOptions options;
  options.gradient = &model.gradient;
  fit_priors_newton(priors, *model.fit.curvature, options);
  const double delta = rho_of(priors[0]).exp().item<double>();
  double norm = 0, effective = 0;
  for (size_t m = 0; m < blocks; ++m) {
    norm += mode_sums(model.kron().factors()[m], curves[m], 1.0, delta).norm;
    effective += spectral_sums(model.kron().factors()[m], 1.0, delta).effective;
  }
  CHECK(delta * norm == Approx(effective));
}

TEST_CASE("weights answer by a Kronecker curvature only", "[prior][profile]") {
  const Model model;
  const auto fit = model.fit(Structure::kDiag);
  const std::vector<Tensor> gradient;
  NewtonOptions options;
  options.gradient = &gradient;
  CHECK_THROWS_WITH(
      fit_priors_newton(layerwise_priors(*fit.curvature, 1.0), *fit.curvature, options),
      "prior fit: weights that answer need a Kronecker-factored curvature, found diag");
}
