// A parameter tensor with its feature map: the unit of curvature.
//
//     y[q, n, t, o] = sum_j W[q, o, j] phi(x)[q, n, t, j]
//
// n sample, t shared position, q group (1 unless the map is block-diagonal: grouped convolution,
// factored layers). Everything the curvature engine does (GGN blocks, Kronecker factors, evidence,
// predictive) follows from phi and the layout of the output, so a new layer needs no new formula.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "laplace/shape.h"

namespace evariste {

/// One parameter tensor and its fixed, linear feature map phi.
///
/// A new kind of map must offer phi, to_positions and from_positions. The functions below them are
/// derived from these three and may be overridden by faster ones that give the same numbers (there
/// is a test that compares them for every layer).
class Block {
 public:
  /// `weight` is shared with the module that registers it (torch::Tensor is a handle).
  explicit Block(Tensor weight) : weight_(std::move(weight)) {}
  virtual ~Block() = default;
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  const Tensor& weight() const { return weight_; }
  int64_t parameters() const { return value().numel(); }

  /// The parameter seen as [Q, O, J]. Default: [1, first size, rest].
  virtual Tensor to_matrix(const Tensor& weight) const;
  /// Inverse of to_matrix.
  virtual Tensor from_matrix(const Tensor& matrix) const;
  /// The current weight as [Q, O, J].
  virtual Tensor value() const { return to_matrix(weight_); }

  /// x [n, ...] -> [Q, n, T, J]
  virtual Tensor phi(const Tensor& x) const = 0;
  /// The layer's output or its cotangent, [m, ...] -> [Q, m, T, O]
  virtual Tensor to_positions(const Tensor& y) const = 0;
  /// Inverse of to_positions for the output of input x: [Q, m, T, O] -> [m, ...]
  virtual Tensor from_positions(const Tensor& y, const Tensor& x) const = 0;

  /// W phi(x) with the matrix [Q, O, J] in place of the weight.
  virtual Tensor apply(const Tensor& matrix, const Tensor& x) const;
  /// Cotangent of x, for g [m, ...] at the output: the transpose of apply in x. m = R n, folded.
  virtual Tensor backward_data(const Tensor& g, const Tensor& x) const;
  /// sum_{n,t} g phi^T, [Q, O, J]; g [n, ...]
  virtual Tensor gradient(const Tensor& x, const Tensor& g) const;
  /// phi(x) with the features in the order in which they are gathered fastest; what goes over all
  /// features and positions of a sample takes these.
  virtual Tensor gathered(const Tensor& x) const { return phi(x); }
  /// [J] on the value's device: gathered feature j' is feature order[j'] of phi; undefined where
  /// the two agree.
  virtual Tensor gathered_order() const { return {}; }
  /// Cotangent of x for g [Q, n, T, J] at gathered(x): the transpose of gathered.
  virtual Tensor scattered(const Tensor& g, const Tensor& x) const;
  /// sum_{n,t} phi phi^T, [Q, J, J], float64
  virtual Tensor input_gram(const Tensor& x) const;
  /// Cotangent of x for the symmetric `matrix` [Q, J, J] at input_gram(x): twice the transpose of
  /// phi of matrix phi(x). As a function of x, for inputs like `x` but for their number, so that
  /// what the matrix needs is done once for many of them.
  virtual std::function<Tensor(const Tensor&)> input_gram_backward(const Tensor& matrix,
                                                                   const Tensor& x) const;
  /// Multiplications and additions of input_gram, half of a symmetric product counted.
  virtual double input_gram_flops(const Tensor& x) const;
  /// g [R, n, ...] -> sum_{r,n} (sum_t g phi^T)^2, [Q, O, J] float64, for inputs x, of blocks that
  /// have a way without phi(x) where x lives; null for the others.
  virtual std::function<Tensor(const Tensor&)> squared_gradients_of(const Tensor& x) const {
    (void)x;
    return nullptr;
  }
  /// Leaves that phi depends on (a bandwidth, a degree); autograd follows phi and apply to them.
  virtual std::vector<Tensor> hyperparameters() const { return {}; }
  /// True for maps that do not depend on x (biases): backward_data is zero then.
  virtual bool is_constant() const { return false; }
  /// One weight per group, by itself or jointly with a bias per group (a norm, a scale): the exact
  /// curvature of a group is a number or 2 x 2, which Kronecker structures take as it is.
  virtual bool is_elementwise() const {
    const auto matrix = value();
    return matrix.size(1) * matrix.size(2) == 1;
  }
  /// Of a block that stands for several uses of a weight (repeated_block.h): that of one use.
  virtual const Block& one_use() const { return *this; }
  /// Where x [n, K, ...] are copies of samples whose outputs are averaged: the block of one copy.
  /// Its Kronecker factors for the mean of x and the sum of cotangents over the copies stand for
  /// those of all (Immer et al. 2022); exact sums take every copy. Null for other blocks.
  virtual const Block* one_copy() const { return nullptr; }

  /// From now on the weight holds the coordinates W' of W = U_B W' U_A^T (training in the
  /// eigenbasis of the curvature), and so do value() and gradient(); undefined bases go back to W
  /// itself. The caller converts the stored numbers. False where the block has no such mode.
  virtual bool set_bases(const Tensor& basis_b, const Tensor& basis_a) {
    (void)basis_b, (void)basis_a;
    return false;
  }

  /// `matrix` [Q, O, J] by the blocks of the network that it is made of: this one, or those that a
  /// joint block stands for.
  virtual std::vector<std::pair<const Block*, Tensor>> parts(const Tensor& matrix) const {
    return {{this, matrix}};
  }

  std::string name;  ///< as in the state_dict, "0.weight"
  /// Of a weight: the bias of the same layer, if any; reported behind it with the same cotangents.
  Block* bias = nullptr;
  bool is_bias = false;
  /// Of a bias: the same number in all that a row of the weight's matrix makes.
  bool is_everywhere = true;
  /// s where the layer behind keeps one of s x s phases of the output [.., H, W] (polyphase).
  int64_t phase_stride = 1;
  /// Mean square of a feature for inputs of mean square one, or of what the layer makes of an
  /// output of mean square one: fresh weights have the variance 1/(J feature_power) where others
  /// have 1/J.
  double feature_power = 1;

 protected:
  Tensor weight_;
};

/// A bias shared over positions: phi = 1, one group.
class BiasBlock : public Block {
 public:
  enum class Axis { kFirst, kLast };  ///< outputs are [m, O, positions...] or [m, positions..., O]

  /// `broadcast`: the shape in which the bias is added to the output, as [1, O, 1, 1].
  BiasBlock(Tensor vector, std::vector<int64_t> broadcast, Axis axis);

  /// [1, n, 1, 1]: one stands for every position.
  Tensor phi(const Tensor& x) const override;
  Tensor to_positions(const Tensor& y) const override;
  /// Flattened: [m, O T] or [m, T O].
  Tensor from_positions(const Tensor& y, const Tensor& x) const override;
  Tensor to_matrix(const Tensor& weight) const override { return weight.reshape({1, -1, 1}); }
  Tensor apply(const Tensor& matrix, const Tensor& x) const override;
  Tensor backward_data(const Tensor& g, const Tensor& x) const override;
  Tensor gradient(const Tensor& x, const Tensor& g) const override;
  bool is_constant() const override { return true; }

 private:
  std::vector<int64_t> broadcast_;
  Axis axis_;
};

/// Weight and bias as one block: phi = [phi_weight; 1] (option bias = joint).
class JointBlock : public Block {
 public:
  JointBlock(const Block& map, const Block& shift);

  Tensor to_matrix(const Tensor& weight) const override { return weight; }
  Tensor from_matrix(const Tensor& matrix) const override { return matrix; }
  Tensor value() const override;
  Tensor phi(const Tensor& x) const override;
  Tensor to_positions(const Tensor& y) const override { return weight_block_.to_positions(y); }
  Tensor from_positions(const Tensor& y, const Tensor& x) const override {
    return weight_block_.from_positions(y, x);
  }
  Tensor backward_data(const Tensor& g, const Tensor& x) const override {
    return weight_block_.backward_data(g, x);
  }

  std::vector<Tensor> hyperparameters() const override { return weight_block_.hyperparameters(); }
  std::vector<std::pair<const Block*, Tensor>> parts(const Tensor& matrix) const override;
  bool is_elementwise() const override { return weight_block_.is_elementwise(); }
  const Block* one_copy() const override { return one_copy_.get(); }

  const Block& weight_block() const { return weight_block_; }
  const Block& bias_block() const { return bias_block_; }

 private:
  const Block& weight_block_;
  const Block& bias_block_;
  std::unique_ptr<JointBlock> one_copy_;
};

/// Gives a block the weights [Q, O, J]; those of a joint block go to both of its parts. Without
/// autograd.
void set_value(const Block& block, const Tensor& matrix);

}  // namespace evariste
