#include "laplace/layer.h"

#include "core/error.h"

namespace evariste {

std::vector<Block*> named_blocks(Layer& network) {
  std::vector<Block*> blocks;
  network.visit_blocks([&](Block& block) { blocks.push_back(&block); });
  for (const auto& item : network.named_parameters()) {
    for (auto* block : blocks)
      if (block->weight().is_same(item.value())) block->name = item.key();
  }
  for (const auto* block : blocks)
    if (block->name.empty())
      throw Error(1, fmt::format("a block with weight {} is not a registered parameter",
                                 shape_text(block->weight().sizes())));
  return blocks;
}

Tensor fold(const Tensor& g) { return g.flatten(0, 1); }

Tensor unfold(const Tensor& g, int64_t folds) {
  auto shape = g.sizes().vec();
  shape[0] /= folds;
  shape.insert(shape.begin(), folds);
  return g.view(shape);
}

}  // namespace evariste
