// rows^T rows, where every Kronecker factor and every Gram matrix comes from.
#pragma once

#include "laplace/shape.h"

namespace evariste {

/// sum_r rows_r rows_r^T, [Q, D, D] float64, of rows [Q, r, D] of any strides, multiplied in their
/// own precision. Only tiles on and below the diagonal are multiplied: D of a few hundred or more
/// take two thirds of the flops of a product.
Tensor gram(const Tensor& rows);

}  // namespace evariste
