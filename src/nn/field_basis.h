// Matrices of groups as tensors.
#pragma once

#include <torch/types.h>

#include "groups/group.h"

namespace evariste {

/// A copy, row by row: [rows, columns], float64.
inline torch::Tensor as_tensor(const Matrix& matrix) {
  auto out = torch::empty({matrix.rows(), matrix.cols()}, torch::kFloat64);
  Eigen::Map<Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(
      out.data_ptr<double>(), matrix.rows(), matrix.cols()) = matrix;
  return out;
}

}  // namespace evariste
