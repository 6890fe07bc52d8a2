// The input factor of a convolution, sum_{n,t} phi phi^T, without patches.
//
// Entry ((c,y,x), (c',y',x')) sums products of two shifted images over the output positions. Rows
// of the image are unfolded in x alone, R[v] = [x~[v, x_w + kx]]_{w,(kx,c)}, kernel width times the
// image instead of kernel area; pairs of kernel rows (y, y') with the same vertical shift share one
// product sum_v R[v]^T R[v + shift] but for a few rows at the edges:
//
//   k products of size (k_w C)^2 instead of k^2 (the patch matrix): 3 times fewer flops for a 3 x 3
//   kernel, and with the symmetric one halved 3.6.
#pragma once

#include "nn/convolution.h"

namespace evariste {

/// [G, J, J] float64, J = (C/G) kh kw in the order (c, y, x), of x [n, C, H, W] that has been
/// padded already. Memory k_w times x.
Tensor patch_gram(const Tensor& padded, const ConvGeometry& geometry);

/// Its multiplications and additions for `positions` of `channels`: G (k_w C/G)^2 (2 k_h - 1) each
/// at stride 1.
double patch_gram_flops(int64_t positions, int64_t channels, const ConvGeometry& geometry);

}  // namespace evariste
