// The posterior as one HDF5 file.
//
//   /                  attributes: format = "evariste-posterior", version = 1, structure,
//                      likelihood, temperature, noise (sigma, 1 unless regression),
//                      scale h = 1/(sigma^2 tau), samples, log_likelihood, log_det_ratio, scatter,
//                      log_evidence, network (the text of the network file), program, command
//   /blocks            dimension block (names, in order): parameters, groups Q, outputs O,
//                      inputs J, prior (name), prior_precision (mean over entries),
//                      effective_dimension
//   /weights/<block>   mean [Q, O, J]; prior_precision [Q, O, J] where there is one per entry
//   /curvature/<block> kron: correction c [], b_values [Q, k_B], b_basis [Q, O, k_B],
//                      a_values [Q, k_A], a_basis [Q, J, k_A], eigenvectors in columns;
//                      ekfac: the same and spectrum [Q, k_B, k_A] in place of c b a;
//                      diag: diagonal [Q, O, J];
//                      block: hessian [P_m, P_m], entries of the block row-major
//   /curvature         lowrank: values [k], basis [P, k];
//                      full, lastlayer: hessian [P, P], entries of all blocks in order, row-major
//
// Posterior precision P = h H + diag(prior_precision), H = c (U_B o b) U_B^T (x) (U_A o a) U_A^T
// per block and group (directions outside an incomplete basis have H = 0), or as stored. Everything
// is float64; each dimension is a scale, so xarray opens every group.
#pragma once

#include <filesystem>

#include "experiments/evidence/measure.h"

namespace evariste {

/// --save under --out if that is given. Throws UsageError where the file is there already and
/// --force is not given, or where this build has no HDF5.
std::filesystem::path posterior_path(const EvidenceRequest& request);

/// Replaces the file whole. Throws IoError.
void save_posterior(const std::filesystem::path& path, const EvidenceRequest& request,
                    const EvidenceProblem& problem, const EvidenceResult& result);

}  // namespace evariste
