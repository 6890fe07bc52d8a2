// Products of many short rows whose results are used tile by tile, in registers: where most of the
// time of curvature goes that is not spent in the network's own layers.
#pragma once

#include "laplace/shape.h"

namespace evariste {

/// True where these functions beat matrix products: they need the 32 wide registers of AVX-512.
bool has_register_tiles(const Tensor& rows);

/// D up to whole tiles.
int64_t padded_side(int64_t d);

/// sum += rows^T rows on and below the diagonal, in the rows' precision; rows [r, D] of any
/// strides, sum [S, S] contiguous, S = padded_side(D). What lies above the diagonal is written
/// where a tile reaches over it. r D^2 flops, half of a product's; the sum is the same for any
/// number of threads.
void add_lower_gram(const Tensor& rows, Tensor& sum);

/// sum_{r,n} (a_rn^T b_n) o (a_rn^T b_n), [O, J] float64, of a [R, n, T, O] and b [n, T, J] of any
/// strides: 2 R n T O J flops, and no product is stored. The same for any number of threads.
Tensor squared_products(const Tensor& a, const Tensor& b);

}  // namespace evariste
