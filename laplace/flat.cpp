#include "laplace/flat.h"

namespace evariste {

Tensor flat_precisions(const Precisions& precisions, const std::vector<const Block*>& blocks) {
  std::vector<Tensor> parts;
  for (size_t m = 0; m < blocks.size(); ++m)
    parts.push_back(precisions[m]
                        .to(torch::dtype(torch::kFloat64).device(blocks[m]->value().device()))
                        .expand(blocks[m]->value().sizes().vec())
                        .flatten());
  return torch::cat(parts);
}

std::vector<Tensor> split_by_block(const Tensor& flat, const std::vector<const Block*>& blocks) {
  std::vector<Tensor> parts;
  int64_t begin = 0;
  for (const auto* block : blocks) {
    const auto shape = block->value().sizes().vec();
    const auto count = c10::multiply_integers(shape);
    parts.push_back(flat.narrow(0, begin, count).reshape(shape));
    begin += count;
  }
  return parts;
}

}  // namespace evariste
