// Stochastic estimates of the Laplace evidence that are below it in the mean, from parts of the
// data (Immer, van der Ouderaa, van der Wilk, Raetsch, Schoelkopf 2023, arXiv 2306.03968):
//
//   L_M = N/M sum_{n in M} log p_n - 1/2 [ N/M R_M + scatter ]
//
// For a partition of the data into parts of M samples, log|I + sum_M H_M P0^-1| is at most the sum
// of R_M = log|I + H_M P0^-1|, so the mean of L_M over the parts is at most the evidence of the
// same exact GGN; smaller parts, looser bound. A Kronecker-factored R_M inherits no guarantee.
#pragma once

#include "laplace/evidence.h"

namespace evariste {

enum class Bound {
  kParametric,  ///< R_M of a curvature structure fitted to the part: any of them
  /// log|I + S^T K S|, K = J P0^-1 J^T, S S^T = Lambda: the full GGN's, [M C]^2 in place of [P]^2.
  kNtk,
  /// sum_c log|I + diag(Lambda_cc) K_cc|, [M]^2 for each output: a bound where K couples no
  /// outputs.
  kNtkIndependent,
  kNtkSingle,  ///< C times that of one output, drawn for each part: unbiased for kNtkIndependent
};

struct BoundOptions {
  Bound bound = Bound::kNtk;
  int64_t samples = 100;  ///< M; the last part of a partition may have up to 2 M - 1
  int64_t parts = 0;      ///< of the partition that are looked at, the first ones; 0: all
  /// Parts are filled class by class, in random order, in place of at random: samples of a class
  /// share much of their curvature, which tightens the bound. Labels must be classes.
  bool by_class = false;
  CurvatureOptions curvature;  ///< kParametric: structure and the rest; the batch of all
  Stream stream = Stream(0);
};

struct EvidenceBound {
  double log_evidence = 0;  ///< mean of L_M over the parts, weighted by their samples
  double log_likelihood = 0, log_det_ratio = 0, scatter = 0;  ///< whose sum it is
  double spread = 0;  ///< standard deviation of L_M over the parts; NaN for one
  int64_t parts = 0;
  double seconds = 0;
};

/// Of `data`, whole and not shared between processes, at temperature 1; `priors` one per block of
/// the network (or of curvature.only). Throws UsageError for parts of no sample and for by_class
/// without classes. Cost and memory of the NTK bounds for M samples: those of prior_covariance and
/// (M C)^3/3, or C M^3/3 and M^3/3.
EvidenceBound bound_evidence(Layer& network, const Likelihood& likelihood, const Samples& data,
                             const Priors& priors, const BoundOptions& options);

}  // namespace evariste
