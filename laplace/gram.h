// rows^T rows, where every Kronecker factor and every Gram matrix comes from.
#pragma once

#include "laplace/shape.h"

namespace evariste {

/// sum_r rows_r rows_r^T, [Q, D, D] float64, of rows [Q, r, D] of any strides, multiplied in their
/// own precision. Half the flops of a product where the machine allows it (register_tiles.h), two
/// thirds for large D elsewhere.
Tensor gram(const Tensor& rows);

/// a_n b_n^T, [n, C, D], of few long rows a [n, C, K], b [n, D, K]: batched products pack their
/// operands, which costs more than multiplying so few rows. Without a gradient.
Tensor inner_products(const Tensor& a, const Tensor& b);

/// The sum of the Gram matrices of many chunks: added up in the rows' own precision for a while,
/// then in float64; mirrored once, at the end. Converting every chunk's matrix would cost more than
/// multiplying it where D is large.
class GramSum {
 public:
  void add(const Tensor& rows);  ///< [Q, r, D]
  bool is_empty() const { return !part_.defined() && !sum_.defined(); }
  /// [Q, D, D] float64, or undefined.
  Tensor total();

 private:
  void add_by_updates(const Tensor& rows);
  void add_by_tiles(const Tensor& rows);
  void flush();

  Tensor part_;  // in the rows' precision, lower tiles: [Q, S, S] of updates, [1, D, D] of tiles
  Tensor sum_;   // [Q, D, D] float64; lower tiles only, unless of products
  int64_t added_ = 0;  // rows in part_
  int64_t side_ = 0;   // D
  bool is_lower_ = false;
};

}  // namespace evariste
