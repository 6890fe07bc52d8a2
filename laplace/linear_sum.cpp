#include "laplace/linear_sum.h"

namespace evariste {

bool LinearSum::applies(const std::vector<const Block*>& blocks, const Tensor& g) {
  const auto& weight = *blocks[0];
  return blocks.size() <= 2 && !weight.is_constant() && weight.value().size(0) == 1 &&
         (blocks.size() == 1 || weight.bias == blocks[1]) &&
         weight.to_positions(g.flatten(0, 1)).size(2) == 1;
}

LinearSum::LinearSum(const Block& weight, bool has_bias)
    : outputs_(weight.value().size(1)),
      inputs_(weight.value().size(2)),
      width_(inputs_ + (has_bias ? 1 : 0)),
      sum_(torch::zeros({outputs_, width_, outputs_, width_},
                        torch::TensorOptions(torch::kFloat64).device(weight.weight().device()))) {}

void LinearSum::add(const Block& weight, const Tensor& x, const Tensor& g) {
  auto phi = weight.phi(x)[0].squeeze(1);  // [n, J]
  if (width_ > inputs_) phi = torch::cat({phi, torch::ones({phi.size(0), 1}, phi.options())}, 1);
  const auto n = phi.size(0);
  const auto columns =
      weight.to_positions(g.flatten(0, 1))[0].view({g.size(0), n, outputs_}).permute({1, 2, 0});
  const auto k = columns.matmul(columns.transpose(1, 2));  // [n, O, O]
  for (int64_t o = 0; o < outputs_; ++o) {
    const auto rest = outputs_ - o;  // the others by symmetry
    const auto scaled =
        (k.select(1, o).narrow(1, o, rest).unsqueeze(2) * phi.unsqueeze(1)).view({n, -1});
    sum_[o].narrow(1, o, rest) +=
        phi.t().mm(scaled).view({width_, rest, width_}).to(torch::kFloat64);
  }
}

Tensor LinearSum::total(double scale) {
  for (int64_t o = 1; o < outputs_; ++o)
    for (int64_t other = 0; other < o; ++other)
      sum_[o].select(1, other).copy_(sum_[other].select(1, o).t());
  const auto all = torch::arange(outputs_ * width_, sum_.device()).view({outputs_, width_});
  const auto order = torch::cat(
      {all.narrow(1, 0, inputs_).flatten(), all.narrow(1, inputs_, width_ - inputs_).flatten()});
  const auto flat = sum_.view({outputs_ * width_, -1});
  return scale * flat.index_select(0, order).index_select(1, order);
}

}  // namespace evariste
