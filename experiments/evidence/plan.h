// What a run will need, said before it starts.
#pragma once

#include "experiments/evidence/problem.h"

namespace evariste {

/// peak = max(so far, base + chunk + curvature + workspace + predictive), in bytes of the process:
///
///   base        resident after a pass of one sample: program, libraries, network, data
///   chunk       batch * (tape + 2 (R + 1) widest), R cotangents folded in front of the batch
///               (C - 1 for softmax, C else, draws for mc, 1 for empirical; C to predict), + one
///               tile of per-sample gradients, 2 * min(batch R P_m, 2^23), where positions are
///               shared
///   curvature   float64: kron Q (J^2 + O^2) per block, twice with eigenvectors, ekfac P more;
///               diag P; full P^2
///   workspace   kron 4 D^2 of the widest factor D;
///               full 3 P^2 + batch R P (the Jacobian, once more in float64)
///   predictive  two [N_test, C, C], and [draws, N_test, C] for mc
struct EvidencePlan {
  int64_t peak_bytes = 0;
  double seconds = 0;  ///< of one repeat; measured on a few samples, for --dry-run only
};

/// One sample goes through the network. Throws UsageError where a dense curvature of this many
/// parameters is more than the machine's memory.
EvidencePlan plan_memory(const EvidenceOptions& options, EvidenceProblem& problem);

/// Fits the first samples and scales the time up; eigendecompositions from one of 256 x 256.
double predict_seconds(const EvidenceOptions& options, EvidenceProblem& problem);

/// Largest resident size of this process so far, bytes.
int64_t peak_resident_bytes();

}  // namespace evariste
