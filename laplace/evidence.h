// The Laplace evidence (log marginal likelihood), its terms per block, and whether to believe it.
//
//   log q(D) = sum_n log p(y_n|f_n)/tau - 1/2 [ log|P| - log|P0| + theta^T P0 theta ]
//   P = H/(sigma^2 tau) + P0
//
// MacKay 1992; online and for networks: Immer et al. 2021. The Gaussian normaliser is not divided
// by tau. For a prior that is not Gaussian, scatter stands for
//   -2 (log density + P/2 log 2pi - 1/2 log|P0|),
// which is theta^T P0 theta when it is.
#pragma once

#include "laplace/fit.h"
#include "laplace/priors/prior.h"

namespace evariste {

struct BlockEvidence {
  std::string name;
  int64_t parameters = 0;
  double prior_precision = 0;      ///< mean over entries where there is one for each
  double log_det_ratio = 0;        ///< log|P| - log|P0|, nats; NaN where blocks are coupled
  double scatter = 0;              ///< theta^T P0 theta
  double squared_norm = 0;         ///< |theta|^2
  double effective_dimension = 0;  ///< gamma
  double evidence_gradient = 0;  ///< 1/2 (gamma - delta |theta|^2): d log q / d log delta, Gaussian
  double trace_ratio = 1;        ///< tr KFAC / tr F before the trace correction
};

struct Evidence {
  int64_t n = 0;
  double log_likelihood = 0;  ///< sum over the data, nats
  double log_det_ratio = 0;
  double scatter = 0;
  double log_evidence = 0;
  std::vector<BlockEvidence> blocks;

  double effective_dimension() const;
};

/// One prior per block of the curvature.
using Priors = std::vector<Prior>;

/// A block's weights as its prior sees them: float64, and on the CPU, where priors and their
/// hyper-parameters are, wherever the network is.
Tensor seen_by_prior(const Block& block);

/// Present precisions of `priors` at the blocks' weights; those per entry are where the block is.
Precisions precisions_of(const Priors& priors, const Curvature& curvature);
Tensor precision_of(const Prior& prior, const Tensor& theta, const Block& block);

/// No earlier block has the prior of block m: where its hyper-density counts.
bool is_first_use(const Priors& priors, size_t m);

/// Of block m: theta^T P0 theta, or what stands for it (above).
double scatter_of(const Priors& priors, size_t m, const Block& block);

/// Also sets the curvature's scale h from likelihood and temperature.
Evidence evaluate_evidence(const Fit& fit, const Likelihood& likelihood, const Priors& priors,
                           double temperature = 1.0);

/// Thresholds of a believable evidence, in nats per datum.
struct Believable {
  double decrement = 0.15;  ///< the Newton decrement must be below
  double gap = -3.0;        ///< the linearised sampling gap must be above
};

/// Draws from the posterior that the linearised sampling gap is a mean over.
constexpr int64_t kCheckDraws = 8;

/// Whether the number means what it says. All per datum, in nats.
struct Checks {
  /// 1/2 g^T P^-1 g / N, g the full gradient of -log p(D, theta): distance from a mode.
  double newton_decrement = 0;
  /// Mean log-likelihood of f_lin = f + J (theta_s - theta*) over posterior draws, minus its
  /// second-order prediction log p(D|theta*) - tau gamma/2: does the quadratic hold where the
  /// posterior lives?
  double linearised_gap = 0;
  /// gamma > 0 and log-likelihood above that of the class frequencies.
  bool alive = true;
  bool believable = true;
};

/// 1/2 g^T P^-1 g / N from the gradient of log p over the whole data set (of a subset it would be
/// mostly sampling noise). The fit must have bases.
double newton_decrement(const Gradient& gradient, const Likelihood& likelihood, const Fit& fit,
                        const Priors& priors, double temperature);

/// The decrement from the gradient over `data`, the gap over `part` (which may be smaller) with
/// `draws` forward derivatives.
Checks check_evidence(Layer& network, const Likelihood& likelihood, const Samples& data,
                      const Gradient& gradient, const Samples& part, const Fit& fit,
                      const Priors& priors, double temperature, const Stream& stream, int64_t batch,
                      int64_t draws = kCheckDraws, const Believable& thresholds = {});

/// The same with both over `data`: one more gradient pass.
Checks check_evidence(Layer& network, const Likelihood& likelihood, const Samples& data,
                      const Fit& fit, const Priors& priors, double temperature,
                      const Stream& stream, int64_t batch, int64_t draws = kCheckDraws);

/// Does a block that is held at 0 want to enter? Its precision leaves infinity iff |g|^2 > tr F:
/// d log q / d(1/delta) = 1/2 (|g|^2 - tr H) at delta = infinity.
struct EntryTest {
  std::string name;
  double gradient_squared = 0;  ///< |g|^2, g = d log p(D) / d theta at the block
  double fisher_trace = 0;      ///< tr F
  double gain = 0;            ///< max over delta of 1/2 sum_i [g_i^2/(l_i+d) - log(1+l_i/d)], nats
  double best_precision = 0;  ///< the delta that reaches it
  double ratio() const { return fisher_trace > 0 ? gradient_squared / fisher_trace : 0; }
};

/// One gradient pass with the factors of `fit` (Kronecker with bases). Of use for blocks at 0.
std::vector<EntryTest> entry_tests(Layer& network, const Likelihood& likelihood,
                                   const Samples& data, const Fit& fit, int64_t batch);

}  // namespace evariste
