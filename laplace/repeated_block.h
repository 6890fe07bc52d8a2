// One weight used K times for each sample: in turn, by a layer that is repeated, or on K copies of
// the sample whose outputs are averaged.
//
// A sample's gradient is the sum over uses of sum_t g phi^T. So K uses of T positions are one use
// of K T positions, and whatever the engine makes of phi and positions holds unchanged.
#pragma once

#include <unordered_map>

#include "laplace/block.h"

namespace evariste {

/// `one` seen with the positions of all its uses side by side, use by use: x [n, K, ...], outputs
/// and cotangents [m, K, ...], phi [Q, n, K T, J]. K is that of the tensors.
class RepeatedBlock : public Block {
 public:
  enum class Of {
    kUses,    ///< K uses in turn: positions like others
    kCopies,  ///< copies of one sample whose outputs are averaged, see Block::one_copy
  };
  /// Shares the weight of `one`, which outlives it.
  RepeatedBlock(Block& one, Of of);

  const Block& one_use() const override { return one_.one_use(); }
  const Block* one_copy() const override { return of_ == Of::kCopies ? &one_ : nullptr; }

  Tensor to_matrix(const Tensor& weight) const override { return one_.to_matrix(weight); }
  Tensor from_matrix(const Tensor& matrix) const override { return one_.from_matrix(matrix); }
  Tensor value() const override { return one_.value(); }
  Tensor phi(const Tensor& x) const override;
  Tensor to_positions(const Tensor& y) const override;
  Tensor from_positions(const Tensor& y, const Tensor& x) const override;
  Tensor apply(const Tensor& matrix, const Tensor& x) const override;
  Tensor backward_data(const Tensor& g, const Tensor& x) const override;
  Tensor gradient(const Tensor& x, const Tensor& g) const override;
  Tensor gathered(const Tensor& x) const override;
  Tensor gathered_order() const override { return one_.gathered_order(); }
  Tensor scattered(const Tensor& g, const Tensor& x) const override;
  Tensor input_gram(const Tensor& x) const override;
  std::function<Tensor(const Tensor&)> input_gram_backward(const Tensor& matrix,
                                                           const Tensor& x) const override;
  double input_gram_flops(const Tensor& x) const override;
  std::vector<Tensor> hyperparameters() const override { return one_.hyperparameters(); }
  bool is_constant() const override { return one_.is_constant(); }
  bool set_bases(const Tensor& basis_b, const Tensor& basis_a) override {
    return one_.set_bases(basis_b, basis_a);
  }

 private:
  Block& one_;
  Of of_;
};

/// The blocks of a layer's body with all their uses: what the layer reports and lets visit in place
/// of them.
class RepeatedBlocks {
 public:
  RepeatedBlocks() = default;
  RepeatedBlocks(const std::vector<Block*>& ones, RepeatedBlock::Of of);

  const RepeatedBlock& operator()(const Block& one) const { return *index_.at(&one); }
  const std::vector<RepeatedBlock*>& all() const { return order_; }  ///< in the order of `ones`

 private:
  std::vector<std::unique_ptr<RepeatedBlock>> blocks_;
  std::vector<RepeatedBlock*> order_;  // one that is listed twice is there twice
  std::unordered_map<const Block*, RepeatedBlock*> index_;
};

/// Inputs of all uses [n, K, ...], with their history where they have one, whatever the grad mode:
/// a backward without a graph hands them on to what depends on the inputs.
Tensor stack_uses(const std::vector<Tensor>& x);               ///< of K tensors [n, ...]
Tensor split_copies(const Tensor& x, int64_t n, int64_t dim);  ///< [.., n K, ..] as [.., n, K, ..]

}  // namespace evariste
