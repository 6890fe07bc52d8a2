#include "laplace/tuning.h"

#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "laplace/prior_fit.h"

namespace evariste {
namespace {

double noise_of(const Likelihood& likelihood) {
  const auto* gaussian = dynamic_cast<const Gaussian*>(&likelihood);
  return gaussian ? gaussian->noise() : 1.0;
}

TuningPoint point_at(const Posterior& posterior, const Precisions& precisions, double value) {
  TuningPoint point;
  for (const auto& precision : precisions)
    point.precisions.push_back(precision.mean().item<double>());
  point.noise = noise_of(*posterior.likelihood);
  point.temperature = posterior.temperature;
  point.value = value;
  return point;
}

void set_precision(const Priors& priors, double precision) {
  torch::NoGradGuard no_grad;
  for (const auto& leaf : leaves_of(priors)) Tensor(leaf.tensor).fill_(std::log(precision));
}

/// "prior precision 1e-4 of 0.weight", the widest of all.
std::string widest_prior(const Curvature& curvature, const Precisions& precisions) {
  size_t widest = 0;
  const auto least = [&](size_t m) { return precisions[m].min().item<double>(); };
  for (size_t m = 1; m < precisions.size(); ++m)
    if (least(m) < least(widest)) widest = m;
  return fmt::format("prior precision {:.4g} of {}", least(widest),
                     curvature.blocks()[widest]->name);
}

void expect_finite_nll(double value, const Curvature& curvature, const Precisions& precisions) {
  if (!std::isfinite(value))
    throw NumericalError(fmt::format("the validation NLL is {} at {}: use larger precisions", value,
                                     widest_prior(curvature, precisions)));
}

/// -log p of a chunk at given precisions, [c].
Tensor chunk_nll(const Posterior& posterior, const Validation& validation, int64_t begin,
                 const OutputDistribution& outputs) {
  return -predictive_log_density(outputs, *posterior.likelihood, validation.link,
                                 validation.data.y.narrow(0, begin, outputs.mean.size(0)),
                                 validation.stream, validation.draws, begin);
}

/// The mean NLL at each of many precisions.
std::vector<double> validation_nlls(const Posterior& posterior, const Validation& validation,
                                    const std::vector<Precisions>& places) {
  expect_tunable(*posterior.likelihood, validation.link);
  posterior.set_scale();
  const auto& curvature = *posterior.fit.curvature;
  std::vector<double> sums(places.size(), 0.0);
  visit_outputs(
      validation.network, validation.data.x, curvature.blocks(), validation.batch,
      [&](int64_t begin, const Tensor& f, const std::vector<Curvature::Visit>& visits) {
        for (size_t i = 0; i < places.size(); ++i) {
          try {
            const OutputDistribution outputs{f, curvature.output_covariance(visits, places[i])};
            sums[i] += chunk_nll(posterior, validation, begin, outputs).sum().item<double>();
          } catch (const NumericalError& error) {
            throw NumericalError(
                fmt::format("{}: {}", widest_prior(curvature, places[i]), error.what()));
          }
        }
      });
  for (size_t i = 0; i < places.size(); ++i) {
    sums[i] /= static_cast<double>(validation.data.count());
    expect_finite_nll(sums[i], curvature, places[i]);
  }
  return sums;
}

/// What Adam moves: the logs of precisions, so that one pair of bounds holds for all.
struct Coordinates {
  std::vector<PriorLeaf> leaves;
  Tensor noise, temperature;  // log 1/sigma^2, log 1/tau; undefined where they are held

  std::vector<Tensor> tensors() const {
    std::vector<Tensor> out;
    for (const auto& leaf : leaves) out.push_back(leaf.tensor);
    for (const auto& extra : {noise, temperature})
      if (extra.defined()) out.push_back(extra);
    return out;
  }

  void apply(Posterior& posterior, int64_t outputs) const {
    if (noise.defined())
      set_noise(dynamic_cast<Gaussian&>(*posterior.likelihood), posterior.fit, outputs,
                std::exp(-0.5 * noise.item<double>()));
    if (temperature.defined()) posterior.temperature = std::exp(-temperature.item<double>());
  }

  /// By the chain rule from blocks to leaves.
  std::vector<Tensor> gradients(const Posterior& posterior, const ValidationGradient& g) const {
    torch::AutoGradMode enabled(true);
    std::vector<Tensor> out;
    for (const auto& leaf : leaves) {
      auto log_precisions = torch::zeros({}, torch::kFloat64);
      for (const auto m : leaf.blocks) {
        const auto theta = seen_by_prior(*posterior.fit.curvature->blocks()[m]);
        log_precisions =
            log_precisions + g.log_precisions[m] * posterior.priors[m].precision(theta).log().sum();
      }
      out.push_back(torch::autograd::grad({log_precisions}, {leaf.tensor})[0]);
    }
    if (noise.defined()) out.push_back(torch::tensor(-0.5 * g.log_noise, torch::kFloat64));
    if (temperature.defined()) out.push_back(torch::tensor(-g.log_temperature, torch::kFloat64));
    return out;
  }
};

Tensor clamped(double log_precision) {
  return torch::tensor(std::clamp(log_precision, kLowestLogPrecision, kHighestLogPrecision),
                       torch::kFloat64);
}

}  // namespace

void expect_tunable(const Likelihood& likelihood, Link link) {
  expect_link(likelihood, link);
  if (link == Link::kMap)
    throw UsageError(fmt::format(
        "tuning on validation data: the plug-in prediction (map) does not depend on the prior "
        "precision, use {}",
        likelihood.is_regression()              ? "probit"
        : likelihood.name() == "classification" ? "probit, mc or bridge"
                                                : "probit or mc"));
}

double validation_nll(const Posterior& posterior, const Validation& validation) {
  const auto precisions = precisions_of(posterior.priors, *posterior.fit.curvature);
  return validation_nlls(posterior, validation, {precisions})[0];
}

ValidationGradient validation_gradient(const Posterior& posterior, const Validation& validation) {
  expect_tunable(*posterior.likelihood, validation.link);
  posterior.set_scale();
  const auto& curvature = *posterior.fit.curvature;
  const auto precisions = precisions_of(posterior.priors, curvature);
  const bool is_regression = posterior.likelihood->is_regression();
  const double variance = is_regression ? 1 / posterior.likelihood->curvature_scale() : 0.0;
  ValidationGradient out;
  out.log_precisions.assign(precisions.size(), 0.0);
  double log_scale = 0;  // in log h
  visit_outputs(validation.network, validation.data.x, curvature.blocks(), validation.batch,
                [&](int64_t begin, const Tensor& f, const std::vector<Curvature::Visit>& visits) {
                  Tensor loss, v;
                  try {
                    v = curvature.output_covariance(visits, precisions).to(torch::kFloat64);
                    torch::AutoGradMode enabled(true);
                    v.requires_grad_();
                    const auto nll = chunk_nll(posterior, validation, begin, {f, v}).sum();
                    loss = torch::autograd::grad({nll}, {v})[0];
                    out.value += nll.item<double>();
                  } catch (const NumericalError& error) {
                    throw NumericalError(
                        fmt::format("{}: {}", widest_prior(curvature, precisions), error.what()));
                  }
                  const auto slopes = curvature.covariance_slopes(visits, precisions, loss);
                  log_scale -= (loss * v.detach()).sum().item<double>();
                  for (size_t m = 0; m < slopes.size(); ++m) {
                    out.log_precisions[m] += slopes[m];
                    log_scale -= slopes[m];
                  }
                  if (is_regression)
                    out.log_noise += 2 * variance * loss.diagonal(0, 1, 2).sum().item<double>();
                });
  out.log_noise = is_regression ? out.log_noise - 2 * log_scale : 0.0;
  out.log_temperature = -log_scale;
  const auto count = static_cast<double>(validation.data.count());
  out.value /= count, out.log_noise /= count, out.log_temperature /= count;
  expect_finite_nll(out.value, curvature, precisions);
  for (size_t m = 0; m < precisions.size(); ++m) {
    out.log_precisions[m] /= count;
    if (!std::isfinite(out.log_precisions[m]))
      throw NumericalError(fmt::format(
          "the gradient of the validation NLL is {} at prior precision {:.4g} of {}",
          out.log_precisions[m], precisions[m].mean().item<double>(), curvature.blocks()[m]->name));
  }
  return out;
}

std::vector<double> log_grid(double low, double high, int64_t points) {
  const double lowest = std::exp(kLowestLogPrecision), highest = std::exp(kHighestLogPrecision);
  if (!(low >= lowest && high <= highest && low < high))
    throw UsageError(
        fmt::format("grid of prior precisions: expected {:.3g} <= low < high <= "
                    "{:.3g}, found {} and {}",
                    lowest, highest, low, high));
  if (points < 2)
    throw UsageError(
        fmt::format("grid of prior precisions: expected at least 2 points, found {}", points));
  std::vector<double> grid;
  for (int64_t i = 0; i < points; ++i)
    grid.push_back(low *
                   std::pow(high / low, static_cast<double>(i) / static_cast<double>(points - 1)));
  return grid;
}

Tuning grid_by_evidence(Posterior& posterior, const std::vector<double>& grid, int64_t outputs,
                        bool fit_noise) {
  auto* gaussian = dynamic_cast<Gaussian*>(posterior.likelihood.get());
  if (fit_noise && !gaussian) throw UsageError("a noise to fit: only regression has one");
  const double start = noise_of(*posterior.likelihood);
  Tuning out;
  const auto look = [&](double precision) {
    set_precision(posterior.priors, precision);
    if (fit_noise) {
      set_noise(*gaussian, posterior.fit, outputs, start);
      evariste::fit_noise(*gaussian, posterior.priors, posterior.fit, outputs,
                          posterior.temperature, false);
    }
    return posterior.evidence().log_evidence;
  };
  for (const auto precision : grid) {
    try {
      const auto value = look(precision);
      out.path.push_back(
          point_at(posterior, precisions_of(posterior.priors, *posterior.fit.curvature), value));
    } catch (const NumericalError& error) {
      throw NumericalError(
          fmt::format("prior precision {:.4g} of every block: {}", precision, error.what()));
    }
    if (out.path.back().value > out.path[out.best].value) out.best = out.path.size() - 1;
  }
  look(grid[out.best]);
  return out;
}

Tuning grid_by_validation(Posterior& posterior, const std::vector<double>& grid,
                          const Validation& validation) {
  std::vector<Precisions> places;
  for (const auto precision : grid) {
    set_precision(posterior.priors, precision);
    places.push_back(precisions_of(posterior.priors, *posterior.fit.curvature));
  }
  const auto values = validation_nlls(posterior, validation, places);
  Tuning out;
  for (size_t i = 0; i < grid.size(); ++i) {
    out.path.push_back(point_at(posterior, places[i], values[i]));
    if (values[i] < values[out.best]) out.best = i;
  }
  set_precision(posterior.priors, grid[out.best]);
  return out;
}

Tuning descend_validation(Posterior& posterior, const Validation& validation, int64_t outputs,
                          const DescentOptions& options) {
  const auto& curvature = *posterior.fit.curvature;
  for (const auto& precision : precisions_of(posterior.priors, curvature))
    if (precision.numel() != 1)
      throw UsageError(
          "tuning on validation data: one precision per entry is as many as there are weights, use "
          "a prior with one precision per block");
  if (options.noise && !posterior.likelihood->is_regression())
    throw UsageError("a noise to tune: only regression has one");
  Coordinates at{leaves_of(posterior.priors), {}, {}};
  if (options.noise) at.noise = clamped(-2 * std::log(noise_of(*posterior.likelihood)));
  if (options.temperature) at.temperature = clamped(-std::log(posterior.temperature));
  const auto tensors = at.tensors();
  torch::NoGradGuard no_grad;
  for (auto tensor : tensors) tensor.clamp_(kLowestLogPrecision, kHighestLogPrecision);
  at.apply(posterior, outputs);
  Adam adam(options.learning_rate);
  Tuning out;
  std::vector<Tensor> best;
  for (int64_t step = 0;; ++step) {
    const auto gradient = validation_gradient(posterior, validation);
    out.path.push_back(
        point_at(posterior, precisions_of(posterior.priors, curvature), gradient.value));
    if (best.empty() || gradient.value < out.path[out.best].value) {
      out.best = out.path.size() - 1;
      best.clear();
      for (const auto& tensor : tensors) best.push_back(tensor.detach().clone());
    }
    if (step == options.steps) break;
    adam.step(tensors, at.gradients(posterior, gradient));
    at.apply(posterior, outputs);
  }
  for (size_t i = 0; i < best.size(); ++i) Tensor(tensors[i]).copy_(best[i]);
  at.apply(posterior, outputs);
  return out;
}

}  // namespace evariste
