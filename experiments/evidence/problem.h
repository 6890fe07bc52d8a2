// What the files say: a network with its weights, a likelihood, data that fit both.
#pragma once

#include <optional>

#include "experiments/evidence/options.h"
#include "nn/network.h"

namespace evariste {

struct EvidenceProblem {
  std::shared_ptr<Network>
      network;                 ///< in evaluation mode, of --dtype; averaged where x has copies
  std::string weights_digest;  ///< of what --weights holds, before --polish
  Samples train;               ///< without samples where a posterior is loaded
  std::optional<Samples> test, validation;
};

/// Throws UsageError (missing file, unknown key, wrong shape, NaN in weights or inputs, labels that
/// the likelihood does not know) or IoError (truncated or damaged file), naming the file.
EvidenceProblem load_problem(const EvidenceOptions& options, torch::Device device);

/// x [N, ...input] or with K copies of each sample [N, K, ...input], floating; y int64 [N] or
/// floating [N, C], both in `type` where floating.
Samples load_samples(const std::filesystem::path& file, const Network& network,
                     const Likelihood& likelihood, torch::ScalarType type);

}  // namespace evariste
