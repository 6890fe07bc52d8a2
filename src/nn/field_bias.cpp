#include "nn/field_bias.h"

namespace evariste {

Matrix trivial_columns(const Representation& rho) {
  std::vector<int> columns;
  for (size_t i = 0; i < rho.irreps().size(); ++i)
    if (rho.irreps()[i].is_trivial) columns.push_back(rho.offset(i));
  return rho.basis()(Eigen::all, columns);
}

FieldBias::FieldBias(const Tensor& vector, int64_t fields, Tensor basis,
                     std::vector<int64_t> broadcast)
    : BiasBlock(vector, std::move(broadcast), Axis::kFirst),
      fields_(fields),
      basis_(std::move(basis)) {
  is_everywhere = false;
}

Tensor FieldBias::to_positions(const Tensor& y) const {  // -> [1, m, T, fields q]
  return y.reshape({y.size(0), fields_, basis_.size(0), -1})
      .permute({0, 3, 1, 2})
      .matmul(basis_.to(y.options().requires_grad(false)))
      .flatten(2)
      .unsqueeze(0);
}

Tensor FieldBias::from_positions(const Tensor& y, const Tensor&) const {
  return embedded(y[0]).transpose(1, 2).flatten(1);
}

Tensor FieldBias::apply(const Tensor& matrix, const Tensor& x) const {
  return BiasBlock::apply(embedded(matrix.reshape({1, -1})), x);
}

Tensor FieldBias::embedded(const Tensor& outputs) const {
  const auto basis = basis_.to(outputs.options().requires_grad(false));
  return outputs.unflatten(-1, {fields_, -1}).matmul(basis.t()).flatten(-2);
}

}  // namespace evariste
