#include "laplace/prior_fit.h"

#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace evariste {
namespace {

std::vector<Tensor> weights_of(const Curvature& curvature) {
  std::vector<Tensor> out;
  for (const auto* block : curvature.blocks()) out.push_back(seen_by_prior(*block));
  return out;
}

/// log q as a function of the hyper-parameters, up to terms without them, with gradients right at
/// the present point: d log|P|/d log delta_i = 1 - gamma_i is put in as a constant.
Tensor objective(const Prior& prior, const Tensor& theta, const LogDet& log_det) {
  const auto precision = prior.precision(theta);
  const auto log_precision = precision.log();
  const auto n = static_cast<double>(theta.numel());
  if (precision.numel() == 1)
    return prior.log_density(theta) - 0.5 * (n - log_det.effective) * log_precision.sum();
  return prior.log_density(theta) - 0.5 * ((1 - log_det.entries.cpu()) * log_precision).sum();
}

/// log|P| of a block with one precision.
LogDet block_log_det(const Curvature& curvature, size_t m, const Precisions& precisions,
                     const std::vector<LogDet>* all) {
  if (all) return (*all)[m];
  const auto& kron = static_cast<const KronCurvature&>(curvature);
  const auto sums = spectral_sums(kron.factors()[m], kron.scale(), precisions[m].item<double>());
  LogDet out;
  out.ratio = sums.log1p;
  out.effective = sums.effective;
  out.slope = sums.slope;
  return out;
}

/// A block's weights as the objective sees them: fixed, or of the norm that they are predicted to
/// have at the present precision.
struct Weights {
  Tensor value;             // [Q, O, J], what the priors see by its norm alone: any direction
  double squared_norm = 0;  // of value
  Tensor scale;             // [], undefined where they are fixed; value*scale is the mode
  double scale_slope = 0;   // d scale/d log delta

  Tensor mode() const { return scale.defined() ? value * scale : value; }
};

/// The predicted mode at the present precision of block m.
void predict(Weights& weights, const KronCurvature& kron, size_t m, const ModeCurve& curve,
             double precision) {
  const auto sums = mode_sums(kron.factors()[m], curve, kron.scale(), precision);
  const double scale = std::sqrt(sums.norm / weights.squared_norm);
  weights.scale = torch::tensor(scale, torch::kFloat64).requires_grad_();
  weights.scale_slope = sums.norm > 0 ? 0.5 * scale * sums.slope / sums.norm : 0.0;
}

/// Weights answer to a precision that does not answer to them.
void expect_fixed_precisions(const Priors& priors, const std::vector<Tensor>& values) {
  torch::NoGradGuard no_grad;
  for (size_t m = 0; m < priors.size(); ++m) {
    const auto probe = torch::ones_like(values[m]);
    if (!torch::equal(priors[m].precision(probe), priors[m].precision(2 * probe)))
      throw UsageError(fmt::format(
          "prior {}: its precision depends on the weights, so they cannot answer to it: use "
          "prior.update = \"newton\" or \"adam\"",
          priors[m].name()));
  }
}

struct Derivatives {
  Tensor first, second;  // of log q in the leaf, its shape
};

/// First and second derivative of log q in one leaf (the second along each entry).
Derivatives derivatives(const PriorLeaf& leaf, const Priors& priors, const Curvature& curvature,
                        const std::vector<Weights>& theta, const Precisions& precisions,
                        const std::vector<LogDet>* all) {
  torch::AutoGradMode enabled(true);
  auto total = torch::zeros({}, torch::kFloat64);
  auto closed = torch::zeros_like(leaf.tensor);
  std::vector<Tensor> scales, answers;  // d scale/d leaf
  for (const auto m : leaf.blocks) {
    const auto log_det = block_log_det(curvature, m, precisions, all);
    const auto mode = theta[m].mode();
    total = total + objective(priors[m], mode, log_det);
    if (m == leaf.blocks.front()) total = total + priors[m].log_hyper_density();
    // -1/2 d2 log|P| through gamma: -1/2 slope (d log delta / d leaf)^2.
    const auto log_precision = priors[m].precision(mode.detach()).log();
    const auto jacobian =
        torch::autograd::grad({log_precision.sum()}, {leaf.tensor}, {}, true, false, true)[0];
    if (!jacobian.defined()) continue;
    if (theta[m].scale.defined()) {
      scales.push_back(theta[m].scale);
      answers.push_back(theta[m].scale_slope * jacobian.detach());
    }
    const auto slope = log_precision.numel() == 1 ? torch::tensor(log_det.slope, torch::kFloat64)
                                                  : log_det.entry_slopes.cpu();
    closed = closed - 0.5 * slope * jacobian.detach().square();
  }
  Derivatives d;
  const auto first = torch::autograd::grad({total}, {leaf.tensor}, {}, true, true, true)[0];
  d.first = first.defined() ? first.detach() : torch::zeros_like(leaf.tensor);
  d.second = closed.detach();
  if (first.defined() && first.requires_grad()) {
    auto inputs = scales;
    inputs.push_back(leaf.tensor);
    const auto second = torch::autograd::grad({first.sum()}, inputs, {}, false, false, true);
    if (second.back().defined()) d.second = d.second + second.back().detach();
    for (size_t i = 0; i < scales.size(); ++i)  // the weights' answer
      if (second[i].defined()) d.second = d.second + second[i].detach() * answers[i];
  }
  return d;
}

}  // namespace

int64_t fit_priors_newton(const Priors& priors, const Curvature& curvature,
                          const NewtonOptions& options) {
  auto leaves = leaves_of(priors);
  const auto* kron = dynamic_cast<const KronCurvature*>(&curvature);
  const bool separable = kron != nullptr;
  auto precisions = precisions_of(priors, curvature);
  const auto values = weights_of(curvature);
  std::vector<Weights> theta;
  for (const auto& value : values) theta.emplace_back().value = value;
  std::vector<ModeCurve> curves;
  if (options.gradient) {
    if (!kron)
      throw UsageError(fmt::format(
          "prior fit: weights that answer need a Kronecker-factored curvature, found {}",
          curvature.structure()));
    expect_fixed_precisions(priors, values);
    curves = kron->mode_curves(*options.gradient, precisions, options.far_from_mode);
    for (auto& weights : theta) {
      weights.squared_norm = weights.value.square().sum().item<double>();
      if (weights.squared_norm > 0) continue;
      weights.value = torch::ones_like(weights.value);
      weights.squared_norm = static_cast<double>(weights.value.numel());
    }
  }
  const auto trust = options.trust_region;
  const bool may_fall = options.gradient || !options.far_from_mode;
  std::vector<Tensor> lowest, highest;  // how far each leaf may go in this call
  for (const auto& leaf : leaves) {
    const auto start = leaf.tensor.detach().clamp(kLowestLogPrecision, kHighestLogPrecision);
    lowest.push_back((start - (may_fall ? trust : 0.0)).clamp_min(kLowestLogPrecision));
    highest.push_back((start + trust).clamp_max(kHighestLogPrecision));
  }
  std::vector<bool> done(leaves.size(), false);
  int64_t iteration = 0;
  for (; iteration < options.max_iterations; ++iteration) {
    for (size_t l = 0; l < leaves.size(); ++l) {
      if (done[l]) continue;
      for (const auto m : leaves[l].blocks) {
        precisions[m] = precision_of(priors[m], values[m], *curvature.blocks()[m]);
        if (kron && options.gradient)
          predict(theta[m], *kron, m, curves[m], precisions[m].item<double>());
      }
    }
    std::vector<LogDet> all;
    if (!separable) all = curvature.log_det(precisions);
    bool moving = false;
    for (size_t l = 0; l < leaves.size(); ++l) {
      if (done[l]) continue;
      const auto d =
          derivatives(leaves[l], priors, curvature, theta, precisions, separable ? nullptr : &all);
      expect_finite(d.first, "gradient of the evidence in a prior's hyper-parameter");
      int64_t entries = 0;
      for (const auto m : leaves[l].blocks) entries += theta[m].value.numel();
      const double share = std::max<double>(
          1.0, static_cast<double>(entries) / static_cast<double>(leaves[l].tensor.numel()));
      // Where the objective is not concave, a step of one in the direction of ascent; where it is
      // quite flat but for rounding (zero weights without curvature), towards pruning.
      const double rounding = 1e-13 * share;
      const auto nothing = (d.first.abs() < rounding).logical_and(d.second.abs() < rounding);
      const auto ascent = torch::where(nothing, torch::ones_like(d.first), d.first.sign());
      const auto newton = torch::where((d.second < 0).logical_and(nothing.logical_not()),
                                       -d.first / d.second.clamp_max(-1e-300), ascent);
      torch::NoGradGuard no_grad;
      const auto old = leaves[l].tensor.detach().clone();
      leaves[l].tensor.copy_((old + newton.clamp(-1, 1)).clamp(lowest[l], highest[l]));
      const double tolerance = 1e-10 * share;
      const bool flat =
          ((d.first.abs() < tolerance).logical_and(nothing.logical_not())).all().item<bool>();
      const bool still = (leaves[l].tensor - old).abs().max().item<double>() < 1e-14;
      // A coupled leaf may have to move again when the others have.
      done[l] = separable && leaves[l].alone && (flat || still);
      moving = moving || !(flat || still);
    }
    if (!moving) break;
  }
  return iteration;
}

void AdamPriorFit::step(const Priors& priors, const Curvature& curvature, int64_t steps) {
  const auto theta = weights_of(curvature);
  std::vector<Tensor> leaves;
  for (const auto& leaf : leaves_of(priors)) leaves.push_back(leaf.tensor);
  const auto n = static_cast<double>(curvature.samples());
  for (int64_t i = 0; i < steps; ++i) {
    const auto log_dets = curvature.log_det(precisions_of(priors, curvature));
    auto total = torch::zeros({}, torch::kFloat64);
    for (size_t m = 0; m < priors.size(); ++m) {
      total = total + objective(priors[m], theta[m], log_dets[m]);
      if (is_first_use(priors, m)) total = total + priors[m].log_hyper_density();
    }
    adam_.step(leaves, torch::autograd::grad({-total / n}, leaves));
  }
}

double noise_gradient(double residual_squares, int64_t samples, int64_t outputs, double noise,
                      double effective_dimension, double temperature) {
  return static_cast<double>(samples * outputs) - residual_squares / (noise * noise * temperature) -
         effective_dimension;
}

double residual_squares(const Gaussian& likelihood, const Fit& fit) {
  // log-likelihood = -S/(2 sigma^2) + normaliser
  const double noise = likelihood.noise();
  return -2 * noise * noise * (fit.log_likelihood - fit.normaliser);
}

void set_noise(Gaussian& likelihood, Fit& fit, int64_t outputs, double noise) {
  const double squares = residual_squares(likelihood, fit);
  likelihood.set_noise(noise);
  const auto one = likelihood.normaliser(torch::zeros({1, outputs}, torch::kFloat64));
  fit.normaliser = static_cast<double>(fit.curvature->samples()) * one.item<double>();
  fit.log_likelihood = fit.normaliser - squares / (2 * noise * noise);
}

double noise_step(const Gaussian& likelihood, const Fit& fit, int64_t outputs,
                  double effective_dimension, double temperature) {
  const auto count = static_cast<double>(fit.curvature->samples() * outputs);
  const double free = count - effective_dimension;
  if (!(free > 0))
    throw NumericalError(
        fmt::format("noise: {} effective parameters leave no degree of freedom of {} observations",
                    effective_dimension, count));
  return std::sqrt(residual_squares(likelihood, fit) / (temperature * free));
}

double fit_noise(Gaussian& likelihood, const Priors& priors, Fit& fit, int64_t outputs,
                 double temperature, bool fit_priors) {
  auto& curvature = *fit.curvature;
  for (int i = 0; i < 200; ++i) {
    curvature.set_scale(likelihood.curvature_scale() / temperature);
    if (fit_priors) fit_priors_newton(priors, curvature);
    double effective = 0;
    for (const auto& block : curvature.log_det(precisions_of(priors, curvature)))
      effective += block.effective;
    const double next = noise_step(likelihood, fit, outputs, effective, temperature);
    const bool still = std::abs(std::log(next / likelihood.noise())) < 1e-12;
    set_noise(likelihood, fit, outputs, next);
    if (still) break;
  }
  curvature.set_scale(likelihood.curvature_scale() / temperature);
  return likelihood.noise();
}

}  // namespace evariste
