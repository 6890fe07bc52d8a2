// A curvature as named arrays and back: one list says, structure by structure, what has to be kept.
//
//   kron       of each block: correction c [], b_values [Q, k_B], b_basis [Q, O, k_B],
//              a_values [Q, k_A], a_basis [Q, J, k_A], eigenvectors in columns
//   ekfac      the same and spectrum [Q, k_B, k_A] in place of c b a
//   diag       of each block: diagonal [Q, O, J]
//   block      of each block: hessian [P_m, P_m], its entries row-major
//   full, lastlayer
//              of all together: hessian [P, P], entries of all blocks in order
//   lowrank    of all together: values [k], basis [P, k]
//
// All without the scale h. Factors come back as their spectra, without the matrices they were
// decomposed from: all that evidence, solutions, samples and predictions need.
#pragma once

#include "laplace/curvature.h"

namespace evariste {

struct NamedArray {
  std::string name;
  Tensor values;
  std::vector<std::string> axes;  ///< what each dimension counts
  std::string meaning;
};

struct StoredCurvature {
  std::string structure;
  int64_t samples = 0;
  std::vector<NamedArray> whole;                ///< of all blocks together
  std::vector<std::vector<NamedArray>> blocks;  ///< of each
  std::vector<double> trace_ratios;             ///< Curvature::trace_ratios, of Kronecker factors
};

/// The arrays of a curvature; those of dense structures are shared with it, not copied. Throws
/// UsageError for Kronecker factors without bases.
StoredCurvature store(const Curvature& curvature);

/// Over the blocks it was made for, in order. Throws UsageError for a structure that is not known,
/// IoError for arrays that are missing or do not fit the blocks; `source` names the file.
std::shared_ptr<Curvature> restore(const StoredCurvature& stored, std::vector<const Block*> blocks,
                                   std::string_view source);

}  // namespace evariste
