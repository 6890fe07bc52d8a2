#include "laplace/block.h"

#include "laplace/gram.h"

#include <torch/csrc/autograd/autograd.h>

#include <algorithm>

#include "core/error.h"
#include "laplace/statistics.h"

namespace evariste {

Tensor Block::to_matrix(const Tensor& weight) const {
  return weight.reshape({1, weight.size(0), -1});
}

Tensor Block::from_matrix(const Tensor& matrix) const { return matrix.reshape(weight_.sizes()); }

Tensor Block::apply(const Tensor& matrix, const Tensor& x) const {
  const auto features = phi(x);                                         // [Q, n, T, J]
  const auto y = features.matmul(matrix.transpose(1, 2).unsqueeze(1));  // [Q, n, T, O]
  return from_positions(y, x);
}

Tensor Block::backward_data(const Tensor& g, const Tensor& x) const {
  const auto n = x.size(0), folds = g.size(0) / n;
  const auto cotangent = to_positions(g).matmul(value().unsqueeze(1));  // [Q, R n, T, J]
  torch::AutoGradMode enabled(true);
  const auto leaf = x.detach().clone().requires_grad_();
  const auto features = phi(leaf);  // linear in x, so the transpose at any x
  std::vector<Tensor> folded;
  for (int64_t r = 0; r < folds; ++r) {
    const auto one = cotangent.narrow(1, r * n, n);
    folded.push_back(torch::autograd::grad({features}, {leaf}, {one}, /*retain_graph=*/true)[0]);
  }
  return torch::cat(folded);
}

Tensor Block::gradient(const Tensor& x, const Tensor& g) const {
  const auto cotangent = to_positions(g);
  const auto features = phi(x).expand({-1, -1, cotangent.size(2), -1});  // a constant phi has T = 1
  return cotangent.flatten(1, 2).transpose(1, 2).matmul(features.flatten(1, 2));
}

Tensor Block::scattered(const Tensor& g, const Tensor& x) const {
  torch::AutoGradMode enabled(true);
  const auto leaf = x.detach().clone().requires_grad_();
  return torch::autograd::grad({gathered(leaf)}, {leaf}, {g})[0];
}

std::function<Tensor(const Tensor&)> Block::input_gram_backward(const Tensor& matrix,
                                                                const Tensor& like) const {
  const auto twice = 2 * as_gathered(*this, matrix);
  const auto of = [this, twice](const Tensor& x) {
    return scattered(times_each(gathered(x), twice), x);
  };
  const auto entries = gathered(like.narrow(0, 0, 1)).numel();
  if (entries == matrix.size(0) * matrix.size(1)) return of;  // T = 1
  return [of, entries](const Tensor& x) {
    // Few samples at a time, so that features and their products stay in the cache.
    const auto n = x.size(0), tile = std::clamp<int64_t>(cached_entries(x) / entries, 1, n);
    if (tile == n) return of(x);
    std::vector<Tensor> parts;
    for (int64_t begin = 0; begin < n; begin += tile)
      parts.push_back(of(x.narrow(0, begin, std::min(tile, n - begin))));
    return torch::cat(parts);
  };
}

double Block::input_gram_flops(const Tensor& x) const {
  const auto features = phi(x);
  return static_cast<double>(features.numel()) * static_cast<double>(features.size(3) + 1);
}

Tensor Block::input_gram(const Tensor& x) const {
  const auto rows = phi(x).flatten(1, 2);  // [Q, n T, J]
  return gram(rows);
}

BiasBlock::BiasBlock(Tensor vector, std::vector<int64_t> broadcast, Axis axis)
    : Block(std::move(vector)), broadcast_(std::move(broadcast)), axis_(axis) {
  is_bias = true;
}

Tensor BiasBlock::phi(const Tensor& x) const {
  return torch::ones({1, x.size(0), 1, 1}, weight_.options().requires_grad(false));
}

Tensor BiasBlock::to_positions(const Tensor& y) const {
  const auto m = y.size(0), o = weight_.numel();
  if (axis_ == Axis::kLast) return y.reshape({1, m, -1, o});
  return y.reshape({1, m, o, -1}).transpose(2, 3);
}

Tensor BiasBlock::from_positions(const Tensor& y, const Tensor&) const {
  return (axis_ == Axis::kLast ? y[0] : y[0].transpose(1, 2)).flatten(1);
}

Tensor BiasBlock::apply(const Tensor& matrix, const Tensor&) const {
  return matrix.reshape(broadcast_);
}

Tensor BiasBlock::backward_data(const Tensor& g, const Tensor& x) const {
  auto shape = x.sizes().vec();
  shape[0] = g.size(0);
  return torch::zeros(shape, x.options());
}

Tensor BiasBlock::gradient(const Tensor&, const Tensor& g) const {
  return to_positions(g).sum({1, 2}).unsqueeze(-1);  // [1, O, 1]
}

JointBlock::JointBlock(const Block& map, const Block& shift)
    : Block(map.weight()), weight_block_(map), bias_block_(shift) {
  name = map.name + "+bias";
  phase_stride = map.phase_stride;
  const auto outputs = map.value().size(0) * map.value().size(1);
  if (shift.weight().numel() != outputs)
    throw UsageError(fmt::format(
        "{}: bias = joint is not defined where groups share a bias ({} outputs of all groups, {} "
        "biases): use bias = exact",
        map.name, outputs, shift.weight().numel()));
  if (!shift.is_everywhere)
    throw UsageError(
        fmt::format("{}: bias = joint is not defined for a bias on some components of "
                    "a field: use bias = exact",
                    map.name));
  if (map.one_copy()) one_copy_ = std::make_unique<JointBlock>(*map.one_copy(), *shift.one_copy());
}

Tensor JointBlock::value() const {
  const auto w = weight_block_.value();
  return torch::cat({w, bias_block_.weight().reshape({w.size(0), w.size(1), 1})}, 2);
}

Tensor JointBlock::phi(const Tensor& x) const {
  const auto features = weight_block_.phi(x);
  auto shape = features.sizes().vec();
  shape.back() = 1;
  return torch::cat({features, torch::ones(shape, features.options())}, 3);
}

std::vector<std::pair<const Block*, Tensor>> JointBlock::parts(const Tensor& matrix) const {
  const auto inputs = matrix.size(2) - 1;
  return {{&weight_block_, matrix.narrow(2, 0, inputs)},
          {&bias_block_, matrix.narrow(2, inputs, 1).reshape({1, -1, 1})}};
}

void set_value(const Block& block, const Tensor& matrix) {
  torch::NoGradGuard no_grad;
  for (const auto& [part, value] : block.parts(matrix)) {
    auto weight = part->weight();  // a handle: the network's own tensor
    weight.copy_(part->from_matrix(value));
  }
}

}  // namespace evariste
