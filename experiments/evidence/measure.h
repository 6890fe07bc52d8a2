// The work itself: fit the curvature, choose the priors, evaluate, check, predict.
#pragma once

#include "experiments/evidence/plan.h"
#include "io/log.h"
#include "laplace/bounds.h"
#include "laplace/tuning.h"
#include "nn/relaxation.h"

namespace evariste {

/// One entry per repeat, wall seconds. `eigen` is 0 for structures without decomposition, `prior`
/// and `predict` where nothing was asked for.
struct EvidenceSeconds {
  std::vector<double> fit, eigen, prior, predict;
};

struct EvidenceResult {
  Posterior posterior;  ///< after --fit
  Evidence evidence;
  std::optional<Checks> checks;
  std::optional<Tuning> tuning;  ///< of --fit grid and --fit-on validation
  std::optional<EvidenceBound> bound;
  std::optional<Metrics> test;
  OutputDistribution outputs;  ///< of the test set; undefined without one
  EvidenceSeconds seconds;
};

/// K-FAC steps first where --polish asks for them (the weights move), then every repeat afresh from
/// --prior-precision; the last repeat is what is returned. Noise and temperature move with
/// --fit-noise and --fit-temperature.
EvidenceResult measure_evidence(const EvidenceOptions& options, EvidenceProblem& problem,
                                const Stream& root, Log& log);

/// What one kind of kernels of a steerable layer would bring, --entry.
struct EntryResult {
  RelaxedBlock block;
  int64_t parameters = 0;
  double samples = 0;  ///< of the data set
  EntryTest test;
};
/// In the order of the layers. Relaxes the network. Throws UsageError where there is no strictly
/// equivariant layer.
std::vector<EntryResult> measure_entry(const EvidenceOptions& options, EvidenceProblem& problem);

/// The same without data: from a posterior that is there, with --prior-precision where it is
/// `given`. `checks` are those of the run that made it.
EvidenceResult measure_loaded(const EvidenceOptions& options, EvidenceProblem& problem,
                              Posterior posterior, const std::optional<Checks>& checks, bool given,
                              const Stream& root);

}  // namespace evariste
