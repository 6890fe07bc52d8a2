// The work itself: fit the curvature, choose the priors, evaluate, check, predict.
#pragma once

#include "experiments/evidence/plan.h"
#include "io/log.h"
#include "laplace/evidence.h"

namespace evariste {

/// One entry per repeat, wall seconds. `eigen` is 0 for structures without decomposition, `prior`
/// and `predict` where nothing was asked for.
struct EvidenceSeconds {
  std::vector<double> fit, eigen, prior, predict;
};

struct EvidenceResult {
  Fit fit;
  Priors priors;  ///< after --fit
  Evidence evidence;
  std::optional<Checks> checks;
  std::optional<Metrics> test;
  Tensor test_function_variance;  ///< [N_test, C], diagonal of V; undefined without a test set
  EvidenceSeconds seconds;
};

/// K-FAC steps first where --polish asks for them (the weights move), then every repeat afresh from
/// --prior-precision; the last repeat is what is returned. The noise of a Gaussian moves with
/// --fit-noise on.
EvidenceResult measure_evidence(const EvidenceOptions& options, EvidenceProblem& problem,
                                const Stream& root, Log& log);

}  // namespace evariste
