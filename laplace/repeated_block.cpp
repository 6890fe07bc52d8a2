#include "laplace/repeated_block.h"

#include <algorithm>

namespace evariste {
namespace {

/// [Q, n K, T, J] -> [Q, n, K T, J], and back.
Tensor positions_of(const Tensor& each, int64_t samples) {
  return each.reshape({each.size(0), samples, -1, each.size(3)});
}

/// [n, K, ...] for one use of n K samples.
Tensor as_samples(const Tensor& x) { return x.flatten(0, 1); }

Tensor as_uses(const Tensor& each, const Tensor& x) { return each.unflatten(0, {-1, x.size(1)}); }

}  // namespace

RepeatedBlock::RepeatedBlock(Block& one, Of of) : Block(one.weight()), one_(one), of_(of) {
  is_bias = one.is_bias;
  phase_stride = one.phase_stride;
  feature_power = one.feature_power;
}

Tensor RepeatedBlock::phi(const Tensor& x) const {
  if (is_constant()) return one_.phi(x.select(1, 0));  // one position stands for all
  return positions_of(one_.phi(as_samples(x)), x.size(0));
}

Tensor RepeatedBlock::to_positions(const Tensor& y) const {
  return positions_of(one_.to_positions(as_samples(y)), y.size(0));
}

Tensor RepeatedBlock::from_positions(const Tensor& y, const Tensor& x) const {
  if (is_constant() && y.size(2) == 1) return one_.from_positions(y, x.select(1, 0));
  const auto each = positions_of(y, y.size(1) * x.size(1));
  return as_uses(one_.from_positions(each, as_samples(x)), x);
}

Tensor RepeatedBlock::apply(const Tensor& matrix, const Tensor& x) const {
  const auto y = one_.apply(matrix, as_samples(x));
  return is_constant() ? y : as_uses(y, x);  // a bias spreads over uses as over positions
}

Tensor RepeatedBlock::backward_data(const Tensor& g, const Tensor& x) const {
  return as_uses(one_.backward_data(as_samples(g), as_samples(x)), x);
}

Tensor RepeatedBlock::gradient(const Tensor& x, const Tensor& g) const {
  return one_.gradient(as_samples(x), as_samples(g));
}

Tensor RepeatedBlock::gathered(const Tensor& x) const {
  if (is_constant()) return phi(x);
  return positions_of(one_.gathered(as_samples(x)), x.size(0));
}

Tensor RepeatedBlock::scattered(const Tensor& g, const Tensor& x) const {
  return as_uses(one_.scattered(positions_of(g, x.size(0) * x.size(1)), as_samples(x)), x);
}

Tensor RepeatedBlock::input_gram(const Tensor& x) const {
  return is_constant() ? Block::input_gram(x) : one_.input_gram(as_samples(x));
}

std::function<Tensor(const Tensor&)> RepeatedBlock::input_gram_backward(const Tensor& matrix,
                                                                        const Tensor& like) const {
  return [backward = one_.input_gram_backward(matrix, as_samples(like))](const Tensor& x) {
    return as_uses(backward(as_samples(x)), x);
  };
}

double RepeatedBlock::input_gram_flops(const Tensor& x) const {
  return is_constant() ? Block::input_gram_flops(x) : one_.input_gram_flops(as_samples(x));
}

RepeatedBlocks::RepeatedBlocks(const std::vector<Block*>& ones, RepeatedBlock::Of of) {
  for (auto* one : ones) {
    auto& known = index_[one];
    if (!known) known = blocks_.emplace_back(std::make_unique<RepeatedBlock>(*one, of)).get();
    order_.push_back(known);
  }
  for (const auto& [one, repeated] : index_)
    if (one->bias) repeated->bias = index_.at(one->bias);
}

Tensor stack_uses(const std::vector<Tensor>& x) {
  const torch::AutoGradMode history(
      std::any_of(x.begin(), x.end(), [](const Tensor& one) { return one.requires_grad(); }));
  // Images that lie channels last stay so.
  const bool is_last = x[0].dim() == 4 && x[0].stride(1) == 1;
  if (!is_last) return torch::stack(x, 1);
  std::vector<Tensor> rows;
  for (const auto& one : x) rows.push_back(one.movedim(1, 3));
  return torch::stack(rows, 1).movedim(4, 2);
}

Tensor split_copies(const Tensor& x, int64_t n, int64_t dim) {
  const torch::AutoGradMode history(x.requires_grad());
  return x.unflatten(dim, {n, -1});
}

}  // namespace evariste
