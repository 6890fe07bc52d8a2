// The parameters of all blocks in one vector [P], one block after the other.
#pragma once

#include "laplace/curvature.h"

namespace evariste {

/// The prior's precision of every parameter, [P] float64.
Tensor flat_precisions(const Precisions& precisions, const std::vector<const Block*>& blocks);

/// [P] -> one [Q, O, J] per block.
std::vector<Tensor> split_by_block(const Tensor& flat, const std::vector<const Block*>& blocks);

}  // namespace evariste
