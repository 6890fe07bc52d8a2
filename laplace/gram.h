// rows^T rows, where every Kronecker factor and every Gram matrix comes from.
#pragma once

#include "laplace/shape.h"

namespace evariste {

/// sum_r rows_r rows_r^T, [Q, D, D] float64, of rows [Q, r, D] of any strides, multiplied in their
/// own precision. Only tiles on and below the diagonal are multiplied: D of a few hundred or more
/// take two thirds of the flops of a product.
Tensor gram(const Tensor& rows);

/// a_n b_n^T, [n, C, D], of few long rows a [n, C, K], b [n, D, K]: batched products pack their
/// operands, which costs more than multiplying so few rows. Without a gradient.
Tensor inner_products(const Tensor& a, const Tensor& b);

/// The sum of the Gram matrices of many chunks: tiles are added up in the rows' own precision, at
/// most 16 chunks, then in float64; mirrored once, at the end. Converting every chunk's matrix
/// would cost more than multiplying it where D is large.
class GramSum {
 public:
  void add(const Tensor& rows);  ///< [Q, r, D]
  bool is_empty() const { return !part_.defined() && !sum_.defined(); }
  /// [Q, D, D] float64, or undefined.
  Tensor total();

 private:
  void flush();

  Tensor part_;  // [D, D] in the rows' precision, lower tiles; for one group of large D
  Tensor sum_;   // [Q, D, D] float64; of the tiled ones lower tiles only
  int64_t added_ = 0;
  bool tiled_ = false;
};

}  // namespace evariste
