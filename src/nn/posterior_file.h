// A posterior as one HDF5 file, read back exactly and read by h5py and xarray.
//
//   /                  attributes: format = "evariste-posterior", version = 2, structure,
//                      likelihood, dtype (of the network), temperature, noise (sigma, 1 unless
//                      regression), scale h = 1/(sigma^2 tau), samples (that H stands for), count
//                      (that were seen), log_likelihood, normaliser (the part that a temperature
//                      does not divide), log_det_ratio, scatter, log_evidence, dropped, columns,
//                      the notes of the program that wrote it, and sha256 of all that
//   /blocks            dimension block (names, in order): parameters, groups Q, outputs O,
//                      inputs J, prior (name), prior_index (the K of /priors), prior_precision
//                      (mean over entries), effective_dimension, trace_ratio
//   /priors/K          hyper-parameters (log_precision [] or [Q, O, J]) and constants []
//   /weights/BLOCK     mean [Q, O, J]; prior_precision [Q, O, J] where there is one per entry
//   /curvature/BLOCK, /curvature
//                      the arrays of laplace/stored_curvature.h, of a block or of all together
//
// Posterior precision P = h H + diag(prior_precision), H = c (U_B o b) U_B^T (x) (U_A o a) U_A^T
// per block and group (directions outside an incomplete basis have H = 0), or as stored. Everything
// is float64; each dimension is a scale, so xarray opens every group.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "io/run_record.h"
#include "laplace/posterior.h"

namespace evariste {

struct PosteriorFile {
  PosteriorRecord posterior;
  std::map<std::string, Attribute>
      notes;  ///< whatever the writer adds; names not in the list above

  /// Throw IoError where there is no such note, or it is of another kind.
  const std::string& text(const std::filesystem::path& path, const std::string& name) const;
};

/// Replaces the file whole. Throws IoError.
void write_posterior(const std::filesystem::path& path, const PosteriorFile& file);

/// Throws UsageError where there is no file, it is a run file or of another version; IoError where
/// it is truncated, or its content is not what was written.
PosteriorFile read_posterior(const std::filesystem::path& path);

/// The two with a network in between. Priors of one's own are given to `known`.
void save_posterior(const std::filesystem::path& path, const Posterior& posterior);
Posterior load_posterior(const std::filesystem::path& path, Layer& network,
                         const std::map<std::string_view, BuiltinPrior>& known = builtin_priors());

}  // namespace evariste
