// Choosing priors by an objective that is looked at, not solved: a grid over one common precision,
// by the evidence or by held-out data, and descent on held-out data.
//
//   L(rho) = -(1/M) sum_m log p(y_m | x_m, posterior(rho)),    rho = log delta
//
// depends on the precisions through V = J P^-1 J^T alone, so
//   dL/d rho_m = -<dL/dV, J P^-1 P0_m P^-1 J^T>,   dL/d log h = -<dL/dV, V> - sum_m dL/d rho_m,
// the latter because V(t delta, t h) = V/t. dL/dV is autograd's through the link; V and its slopes
// are closed form. Neither refits nor decomposes anything: the spectra of the fit serve all.
#pragma once

#include "laplace/posterior.h"
#include "laplace/predictive.h"

namespace evariste {

/// Held-out data and how they are predicted.
struct Validation {
  Layer& network;
  Samples data;
  Link link = Link::kProbit;  ///< one that depends on V: not kMap
  Stream stream = Stream(0);  ///< of kMc; the draws stay the same, whatever the precisions
  int64_t draws = 100;
  int64_t batch = 250;
};

/// Throws UsageError where the link says nothing of the precisions or the likelihood lacks it.
void expect_tunable(const Likelihood& likelihood, Link link);

/// Mean over samples, nats. NumericalError naming precision and block where it is not finite.
double validation_nll(const Posterior& posterior, const Validation& validation);

struct ValidationGradient {
  double value = 0;
  std::vector<double> log_precisions;  ///< per block, all its precisions growing by one factor
  double log_noise = 0;                ///< in log sigma, 0 but for regression
  double log_temperature = 0;
};
ValidationGradient validation_gradient(const Posterior& posterior, const Validation& validation);

/// One place that was looked at.
struct TuningPoint {
  std::vector<double> precisions;  ///< per block, mean over entries
  double noise = 1, temperature = 1;
  double value = 0;  ///< log evidence, or validation NLL
};

struct Tuning {
  std::vector<TuningPoint> path;
  size_t best = 0;
  /// Of a grid: the best is its first or last point, so there may be better ones outside.
  bool at_edge() const { return path.size() > 1 && (best == 0 || best + 1 == path.size()); }
};

/// Equidistant in log, from `low` to `high`; within the bounds of a precision. Throws UsageError.
std::vector<double> log_grid(double low, double high, int64_t points);

/// All of these leave the posterior at the best of their path.
///
/// The highest evidence; with `fit_noise` (regression) each at its own fixed point of the noise.
Tuning grid_by_evidence(Posterior& posterior, const std::vector<double>& grid, int64_t outputs,
                        bool fit_noise = false);
/// The lowest NLL. One forward and folded backward of the data for the whole grid.
Tuning grid_by_validation(Posterior& posterior, const std::vector<double>& grid,
                          const Validation& validation);

struct DescentOptions {
  int64_t steps = 100;
  double learning_rate = 0.1;
  bool noise = false, temperature = false;  ///< move these too
};

/// Adam on the validation NLL in the priors' hyper-parameters (one precision per block or one for
/// several), clamped to the bounds of a precision; 1/sigma^2 and 1/tau are clamped alike. Never
/// ends worse than it starts. Cost per step: forward, folded backward and two contractions.
Tuning descend_validation(Posterior& posterior, const Validation& validation, int64_t outputs,
                          const DescentOptions& options = {});

}  // namespace evariste
