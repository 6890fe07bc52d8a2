// What a call will need, before anything is read or trained.
#pragma once

#include "experiments/run/config.h"

namespace evariste {

struct Need {
  int64_t parameters = 0;   ///< of the network of the evidence
  double bytes = 0;         ///< of the largest training
  double seconds = 0;       ///< of all trainings one after another, on two cores
  double h200_seconds = 0;  ///< the same on one NVIDIA H200, at rates that are assumed
};

/// From the flops of steps, refreshes (plan_curvature) and eigendecompositions; what else a
/// training does, tests and checks, is not counted.
Need predict_need(const RunConfig& config);

}  // namespace evariste
