// Predictions of the linearised network f + J (theta - theta*) under the Laplace posterior.
#pragma once

#include <functional>

#include "laplace/evidence.h"

namespace evariste {

enum class Link {
  kMap,     ///< plug-in, the mode's prediction
  kProbit,  ///< softmax(f / sqrt(1 + pi/8 diag V)) (MacKay 1992)
  kMc,      ///< mean of softmax over draws of N(f, V)
  kBridge,  ///< Laplace bridge to a Dirichlet (Hobbhahn et al. 2020) after a zero-sum correction
};

struct OutputDistribution {
  Tensor mean;        ///< f [n, C]
  Tensor covariance;  ///< V = J P^-1 J^T [n, C, C]
};

/// Told, chunk by chunk, of the outputs f [c, C] of samples begin, begin + 1, ..., and of the
/// inputs and cotangents (of the canonical basis) at every block, in the order of `blocks`.
using OnOutputs = std::function<void(int64_t begin, const Tensor& f,
                                     const std::vector<Curvature::Visit>& visits)>;

/// Forward and folded backward of x [n, ...] in chunks of `batch`, without autograd.
void visit_outputs(Layer& network, const Tensor& x, const std::vector<const Block*>& blocks,
                   int64_t batch, const OnOutputs& on_outputs);

/// Forward, folded backward of the canonical basis, contraction in each block's eigenbasis: no
/// Jacobian is formed where T = 1. x [n, ...], taken in chunks of `batch`.
OutputDistribution output_distribution(Layer& network, const Tensor& x, const Curvature& curvature,
                                       const Priors& priors, int64_t batch = 250);

/// Probabilities [n, C] (classification, Bernoulli) or means (regression). Bernoulli takes kMap,
/// kProbit and kMc; regression kMap only, its variance being V + sigma^2. `stream` and `draws`
/// serve kMc; the draws of sample `i` are those of stream.split(i).
Tensor predict(const OutputDistribution& outputs, const Likelihood& likelihood, Link link,
               const Stream& stream = Stream(0), int64_t draws = 100);

/// Throws UsageError for a link that the likelihood does not have; regression has kMap and kProbit
/// here, the latter standing for its closed form, N(f, V + sigma^2).
void expect_link(const Likelihood& likelihood, Link link);

/// log p(y|x) under the predictive, [n] float64, nats: what `nll` below is the mean of. In log
/// space, so that it is finite wherever mean and covariance are, and differentiable in both (kMc
/// for fixed draws). The draws are those of samples first, first + 1, ...
Tensor predictive_log_density(const OutputDistribution& outputs, const Likelihood& likelihood,
                              Link link, const Tensor& y, const Stream& stream = Stream(0),
                              int64_t draws = 100, int64_t first = 0);

/// Draws [S, n, C] of N(f, V), float64; those of sample i are of stream.split(first + i).
Tensor output_samples(const OutputDistribution& outputs, const Stream& stream, int64_t draws,
                      int64_t first = 0);

/// What programs report on a test set.
struct Metrics {
  double accuracy = 0;  ///< fraction; NaN for regression
  double nll = 0;       ///< mean over samples of -log p(y|x), nats
  double ece = 0;       ///< expected calibration error, 15 equal bins; NaN for regression
  double rmse = 0;      ///< regression only, NaN otherwise
};

/// Classification and Bernoulli: `prediction` [n, C] are probabilities.
Metrics classification_metrics(const Tensor& probabilities, const Tensor& y);
Metrics bernoulli_metrics(const Tensor& probabilities, const Tensor& y);
/// y ~ N(mean, variance [n, C]).
Metrics regression_metrics(const Tensor& mean, const Tensor& variance, const Tensor& y);

}  // namespace evariste
