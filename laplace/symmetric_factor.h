// One side of a Kronecker product: a positive semi-definite matrix and its spectrum.
#pragma once

#include <string_view>

#include "laplace/gram.h"

namespace evariste {

/// S = matrix [Q, D, D], or S = rows^T rows with rows [Q, r, D], r < D (then the r x r Gram matrix
/// is decomposed instead, and the D - r zero eigenvalues are left out; but for vectors in float32
/// of more than D/2 rows, where S costs less). float64.
struct SymmetricFactor {
  Tensor matrix;
  Tensor rows;
  Tensor values;  ///< eigenvalues >= 0 ascending, [Q, k], k = D or r; undefined before decompose
  Tensor basis;   ///< eigenvectors in columns [Q, D, k]; undefined unless asked for

  int64_t groups() const { return values.defined() ? values.size(0) : dense_or_rows().size(0); }
  /// D; what is known of it may be the basis alone (a resumed run, a loaded posterior).
  int64_t dimension() const { return basis.defined() ? basis.size(1) : dense_or_rows().size(2); }
  /// True where the basis spans the whole space.
  bool is_complete() const { return basis.size(2) == basis.size(1); }
  /// Traces of the groups [Q].
  Tensor traces() const;
  /// S as [Q, D, D].
  Tensor dense() const;

  /// scale * S, not decomposed; of scale 1 the same tensors.
  SymmetricFactor times(double scale) const;
  /// Made of the same tensors, so that one decomposition serves both.
  bool is_same(const SymmetricFactor& other) const;

  /// Fills values, and basis if `vectors`, in the given arithmetic. A factor with NaN or clearly
  /// negative eigenvalues is a NumericalError naming `what`; float32 that fails to converge is
  /// tried again in float64.
  void decompose(bool vectors, torch::ScalarType arithmetic, std::string_view what);
  /// Keeps the basis U [Q, D, D] of an earlier, similar S where U^T S U is diagonal but for
  /// `tolerance` of its Frobenius norm in every group; the values are its diagonal then. Their sum
  /// is that of the eigenvalues, and sums of log(values + delta) are too large by the second order
  /// of what was neglected. Else, and for rows, false, and nothing has changed. Two products: about
  /// a tenth of a decomposition.
  bool keep_basis(const Tensor& basis, double tolerance);

 private:
  const Tensor& dense_or_rows() const { return matrix.defined() ? matrix : rows; }
};

/// Sums S over chunks, keeping rows as long as there are fewer of them than dimensions.
class FactorSum {
 public:
  /// `expected_rows`: how many rows per group all chunks will bring.
  explicit FactorSum(int64_t expected_rows = 0) : expected_rows_(expected_rows) {}

  bool wants_rows(int64_t dimension) const { return expected_rows_ < dimension; }
  void add_rows(const Tensor& rows);                             ///< [Q, r, D]
  void add_gram(const Tensor& gram);                             ///< [Q, D, D]
  void add_product(const Tensor& rows) { products_.add(rows); }  ///< rows^T rows of [Q, r, D]
  /// The Gram matrix so far, for sums that are made elsewhere as well; none of the rows are kept.
  Tensor& as_gram();
  /// scale * S.
  SymmetricFactor finish(double scale);

 private:
  int64_t expected_rows_;
  std::vector<Tensor> rows_;
  GramSum products_;
  Tensor gram_;
};

}  // namespace evariste
