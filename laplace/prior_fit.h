// Choosing the priors' hyper-parameters by the evidence, on fixed spectra.
//
// For one precision per block everything is separable and strictly convex in rho = log delta:
//   d(-log q)/d rho = 1/2 (delta |theta|^2 - gamma),   optimum delta = gamma/|theta|^2
// (MacKay 1992). That optimum holds theta fixed, so the precision of a pathway that is losing
// crawls: the weights answer each change only in the steps that follow. Given the gradient g of the
// log-likelihood, the weights answer at once, as the quadratic model of the same curvature says,
//   theta(delta) = (H + delta)^-1 b,   b = H theta + g   (see KronCurvature::mode_curves),
// and what is maximised is the evidence along that curve,
//   1/2 sum_i [ b_i^2/(lambda_i + delta) - log(1 + lambda_i/delta) ],
// which has a maximum where the alternation of mode and MacKay's iteration would end, at infinity
// for a pathway that the data do not want.
// Any other prior is differentiated by autograd through log_density and precision; the dependence
// of log|P| on the precision is closed form, so no spectrum is differentiated.
#pragma once

#include "laplace/prior_leaves.h"

namespace evariste {

struct NewtonOptions {
  /// Largest change of a hyper-parameter in one call; infinite runs to the fixed point. A bound
  /// keeps a pathway from being pruned before the weights have had time to answer.
  double trust_region = std::numeric_limits<double>::infinity();
  /// The weights are far from a mode, where the evidence means little and precisions that fall let
  /// the network saturate: at fixed weights hyper-parameters may rise but not fall; weights that
  /// answer do so with the smaller of their two estimates.
  bool far_from_mode = false;
  /// d log p(D|theta)/d theta per block, [Q, O, J]: the weights answer (above). For a Kronecker
  /// curvature with bases, and priors that see their block by its norm and have a precision that
  /// does not depend on it.
  const std::vector<Tensor>* gradient = nullptr;
  int64_t max_iterations = 100;
};

/// Safeguarded Newton steps, each at most 1, within the trust region and [-10, 20], until
/// |d log q / d rho| < 1e-10 max(1, P) or a bound holds. Priors shared by several blocks are fitted
/// jointly. Returns the number of iterations of the slowest hyper-parameter. Cost per iteration:
/// O(parameters of the blocks still moving).
int64_t fit_priors_newton(const Priors& priors, const Curvature& curvature,
                          const NewtonOptions& options = {});

/// Adam on all hyper-parameters jointly, loss -log q/N; moments persist over calls (Immer et al.
/// 2021). The reference's way, for parity.
class AdamPriorFit {
 public:
  explicit AdamPriorFit(double learning_rate = 0.1) : adam_(learning_rate) {}
  void step(const Priors& priors, const Curvature& curvature, int64_t steps = 20);

  /// First and second moments per hyper-parameter and the step count, to resume from.
  std::vector<Tensor> state() const { return adam_.state(); }
  void set_state(const std::vector<Tensor>& state) { adam_.set_state(state); }

 private:
  Adam adam_;
};

/// S = sum |y - f|^2, from the log-likelihood of a fit and the noise that it was made with.
double residual_squares(const Gaussian& likelihood, const Fit& fit);

/// Another noise without another pass: the likelihood's, and the log-likelihood of the fit at it.
/// (The curvature does not know the noise, but for that of an empirical Fisher, whose columns do.)
void set_noise(Gaussian& likelihood, Fit& fit, int64_t outputs, double noise);

/// d(-log q)/d(log sigma) = N C - S/(sigma^2 tau) - gamma, for Gaussian noise; residual_squares
/// S = sum |y - f|^2.
double noise_gradient(double residual_squares, int64_t samples, int64_t outputs, double noise,
                      double effective_dimension, double temperature = 1.0);

/// MacKay's step: sigma^2 <- S/((N C - gamma) tau), for gamma effective parameters. Throws
/// NumericalError where they leave no degree of freedom. Returns sigma and sets nothing.
double noise_step(const Gaussian& likelihood, const Fit& fit, int64_t outputs,
                  double effective_dimension, double temperature = 1.0);

/// Fixed point of noise and priors together: `noise_step`, priors by Newton, until
/// both stand still. Returns sigma; likelihood and fit keep it. To be called online: a noise fitted
/// after the weights is far too large.
double fit_noise(Gaussian& likelihood, const Priors& priors, Fit& fit, int64_t outputs,
                 double temperature, bool fit_priors);

}  // namespace evariste
