// The full GGN of a linear layer whose samples have one position each.
#pragma once

#include "laplace/block.h"

namespace evariste {

/// sum_n K_n (x) phi_n phi_n^T with K_n = sum_r g_rn g_rn^T, of a weight and perhaps its bias: R/2
/// times fewer flops than the product of Jacobians [R n, P].
class LinearSum {
 public:
  LinearSum(const Block& weight, bool has_bias);

  /// One weight [1, O, J] and at most its bias, of one position per sample; g [R, n, ...] at the
  /// first of the blocks.
  static bool applies(const std::vector<const Block*>& blocks, const Tensor& g);

  void add(const Block& weight, const Tensor& x, const Tensor& g);
  /// [P, P] in the order of weight [O, J], then bias [O]. The last call.
  Tensor total(double scale);

 private:
  int64_t outputs_, inputs_, width_;
  Tensor sum_;  // [O, width, O, width]; until total() [o, :, o' >= o, :] only
};

}  // namespace evariste
