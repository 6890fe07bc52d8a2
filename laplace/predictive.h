// Predictions of the linearised network f + J (theta - theta*) under the Laplace posterior.
#pragma once

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

/// Forward, folded backward of the canonical basis, contraction in each block's eigenbasis: no
/// Jacobian is formed where T = 1. x [n, ...], taken in chunks of `batch`.
OutputDistribution output_distribution(Layer& network, const Tensor& x, const Curvature& curvature,
                                       const Priors& priors, int64_t batch = 250);

/// Probabilities [n, C] (classification, Bernoulli) or means (regression). Bernoulli takes kMap,
/// kProbit and kMc; regression kMap only, its variance being V + sigma^2. `stream` and `draws`
/// serve kMc; the draws of sample `i` are those of stream.split(i).
Tensor predict(const OutputDistribution& outputs, const Likelihood& likelihood, Link link,
               const Stream& stream = Stream(0), int64_t draws = 100);

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
