#include "laplace/layer.h"

#include <algorithm>

#include "core/error.h"

namespace evariste {

std::vector<Block*> named_blocks(Layer& network) {
  std::vector<Block*> blocks;
  network.visit_blocks([&](Block& block) {
    if (std::count(blocks.begin(), blocks.end(), &block))
      throw UsageError(fmt::format(
          "the layer of {} is in the network twice: a layer that is used several times is the body "
          "of a Repeat",
          block.name.empty() ? shape_text(block.weight().sizes()) : block.name));
    blocks.push_back(&block);
  });
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

bool Sink::wants_any_of(Layer& layer) const {
  bool any = false;
  layer.visit_blocks([&](Block& one) { any = any || !wants || wants(one); });
  return any;
}

Tensor fold(const Tensor& g) { return g.flatten(0, 1); }

Tensor unfold(const Tensor& g, int64_t folds) {
  auto shape = g.sizes().vec();
  shape[0] /= folds;
  shape.insert(shape.begin(), folds);
  return g.view(shape);
}

Tensor add_tangent(const Tensor& y, const Tensor& term) {
  auto shape = term.sizes().vec();
  if (term.dim() < y.dim()) shape.insert(shape.begin() + 1, y.dim() - term.dim(), 1);
  return y + term.reshape(shape);
}

Tensor Tangents::operator()(const Block& block, const Tensor& x) const {
  if (outputs) return outputs(block);
  const auto all = directions ? directions(block) : Tensor();
  if (!all.defined()) return Tensor();
  std::vector<Tensor> out;
  for (int64_t r = 0; r < all.size(0); ++r) out.push_back(block.apply(all[r], x));
  return torch::stack(out);
}

Tangents along(Tangents::OfBlock directions) {
  Tangents tangents;
  tangents.directions = std::move(directions);
  return tangents;
}

}  // namespace evariste
