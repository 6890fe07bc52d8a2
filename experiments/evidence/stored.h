// --save and --load: the posterior as a file, and the options that it was made with.
#pragma once

#include "experiments/evidence/measure.h"
#include "laplace/posterior.h"

namespace evariste {

/// What --load brings: the posterior, how it was made, the checks of the run that made it.
struct StoredRun {
  std::string path;
  PosteriorRecord posterior;
  std::string network, weights;  ///< text of the network file; digest of the weights it is of
  int64_t seed = 0;
  std::optional<Checks> checks;
};

/// Throws UsageError where this build has no HDF5.
void expect_hdf5(std::string_view flag);

/// Reads --load and makes the options those of the posterior. Throws UsageError where a flag says
/// otherwise, or a combination is undefined for that posterior; IoError for a damaged file.
StoredRun read_stored(EvidenceRequest& request);

/// Throws UsageError where the network or its weights are not those of the posterior.
Posterior restore_stored(const StoredRun& stored, const EvidenceOptions& options,
                         EvidenceProblem& problem);

/// Replaces the file whole. Throws IoError.
void save_result(const std::filesystem::path& path, const EvidenceRequest& request,
                 const EvidenceProblem& problem, const EvidenceResult& result);

/// --samples-out and --predictive-out.
void write_samples(const std::filesystem::path& weights, const std::filesystem::path& predictions,
                   const EvidenceRequest& request, const EvidenceResult& result,
                   const Stream& root);

}  // namespace evariste
