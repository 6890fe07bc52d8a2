// Biases that commute with a group: on the trivial irreps of fields.
#pragma once

#include "groups/representation.h"
#include "laplace/block.h"

namespace evariste {

/// Columns of Q that belong to trivial irreps, T [d, q], orthonormal.
Matrix trivial_columns(const Representation& rho);

/// Of every field q numbers, y[u, o] = sum_t T[o, t] b[u, t], with T of trivial_columns as the
/// buffer `basis` [d, q]. Positions are pixels, outputs (u, t): what T does not reach is no output.
class FieldBias : public BiasBlock {
 public:
  /// vector [fields q]; broadcast: the shape in which it is added, as [1, fields d, 1, 1]. Outputs
  /// are [m, fields d, ...] or [m, fields, d, ...].
  FieldBias(const Tensor& vector, int64_t fields, Tensor basis, std::vector<int64_t> broadcast);

  Tensor to_positions(const Tensor& y) const override;
  Tensor from_positions(const Tensor& y, const Tensor& x) const override;
  Tensor apply(const Tensor& matrix, const Tensor& x) const override;

 private:
  Tensor embedded(const Tensor& outputs) const;  // [.., fields q] -> [.., fields d]

  int64_t fields_;
  Tensor basis_;
};

}  // namespace evariste
