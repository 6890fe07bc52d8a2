// Dense maps: Linear on vectors, FullyConnected between feature maps (phi(x) = x, T = 1).
#pragma once

#include "nn/linear_map.h"

namespace evariste {

/// phi(x) = x flattened; outputs are viewed as `output` (one sample's shape).
class DenseBlock : public Block {
 public:
  DenseBlock(Tensor weight, std::vector<int64_t> output);

  Tensor phi(const Tensor& x) const override;
  Tensor to_positions(const Tensor& y) const override;
  Tensor from_positions(const Tensor& y, const Tensor& x) const override;
  Tensor apply(const Tensor& matrix, const Tensor& x) const override;
  Tensor backward_data(const Tensor& g, const Tensor& x) const override;
  Tensor gradient(const Tensor& x, const Tensor& g) const override;
  /// ((x U_A) W'^T) U_B^T: three thin products instead of two square ones for U_B W' U_A^T.
  bool set_bases(const Tensor& basis_b, const Tensor& basis_a) override;

 private:
  /// The last tensor multiplied by a basis, and the product: a step asks for x U_A and g U_B twice.
  struct Product {
    Tensor of, result;
    uint32_t version = 0;
    const Tensor& operator()(const Tensor& x, const Tensor& basis);
  };
  std::vector<int64_t> output_;
  Tensor basis_b_, basis_a_;
  mutable Product input_, cotangent_;  // one thread at a time, as training is
};

/// y = W x + b for the last dimension; x [n, I] or [n, T, I] (then positions are shared).
/// torch's default initialisation: U(+-1/sqrt(I)) for both.
class Linear : public LinearMap {
 public:
  Linear(int64_t inputs, int64_t outputs, bool bias = true);
};

/// Dense map between feature maps, x [n, C, H, W] -> [n, D, H/s, W/s]; weight [D H' W', C H W].
class FullyConnected : public LinearMap {
 public:
  FullyConnected(std::vector<int64_t> input, std::vector<int64_t> output, bool bias = true);
  bool flattens_images() const override { return true; }
};

}  // namespace evariste
