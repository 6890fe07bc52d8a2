// A run's network without the pathways that the evidence removed.
#pragma once

#include <filesystem>

#include "experiments/run/result.h"

namespace evariste {

struct Pruned {
  std::vector<std::string> removed;  ///< "0.1": pathway 1 of layer 0
  int64_t parameters_before = 0, parameters = 0;
  double difference = 0;  ///< largest change of an output, over the largest output
};

/// Reads network.toml and weights.safetensors of `folder`, leaves out every pathway of which the
/// data determine nothing (effective dimension of weight and bias below 0.01), and writes
/// network-pruned.toml and weights-pruned.safetensors beside them. A sum keeps its scale and at
/// least one pathway. `x` [n, ...]: what the outputs are compared on.
Pruned prune_run(const std::filesystem::path& folder, const Result& evidence, const Tensor& x);

/// One line for the user.
std::string pruned_text(const Pruned& pruned, const std::filesystem::path& folder);

}  // namespace evariste
