// What a run will need, said before it starts.
#pragma once

#include "experiments/evidence/problem.h"
#include "laplace/plan.h"
#include "laplace/stored_curvature.h"

namespace evariste {

/// peak = base + curvature + the larger of the fit's stages and of what follows it: the checks'
/// forward derivatives, the predictive's cotangents and two [N_test, C, C], for mc also
/// [draws, N_test, C], or the same of a chunk of the validation data. A posterior that is loaded
/// has no fit: its arrays are all there is of it. base: resident after a pass of one sample, with
/// program, libraries, network and data.
struct EvidencePlan {
  CurvaturePlan curvature;
  int64_t peak_bytes = 0;  ///< of the process
  double seconds = 0;      ///< of one repeat; measured on a few samples, for --dry-run only
};

/// One sample goes through the network. Throws BudgetExceeded where the fit needs more memory than
/// --budget allows.
EvidencePlan plan_memory(const EvidenceOptions& options, EvidenceProblem& problem);
/// The same for a posterior that was loaded.
EvidencePlan plan_loaded(const EvidenceOptions& options, EvidenceProblem& problem,
                         const StoredCurvature& stored);

/// Fits the first samples and scales the time up; eigendecompositions from one of 256 x 256.
double predict_seconds(const EvidenceOptions& options, EvidenceProblem& problem);

/// Largest resident size of this process so far, bytes.
int64_t peak_resident_bytes();

}  // namespace evariste
