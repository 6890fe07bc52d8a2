#include "nn/averaged.h"

#include "core/error.h"

namespace evariste {

AveragedNetwork::AveragedNetwork(const Network& network) : Network(network.input()) {
  for (const auto& layer : network.layers()) append(layer);
  set_outputs(network.outputs());
  train(network.is_training());
  std::vector<Block*> ones;
  Network::visit_blocks([&](Block& block) { ones.push_back(&block); });
  blocks_ = RepeatedBlocks(ones, RepeatedBlock::Of::kCopies);
}

Tensor AveragedNetwork::forward(const Tensor& x, Tape* tape) const {
  if (x.dim() < 2 || x.size(1) == 0 || x.sizes().slice(2) != at::IntArrayRef(input()))
    throw UsageError(fmt::format("averaged network input: expected [N, K, {}], got {}",
                                 fmt::join(input(), ", "), shape_text(x.sizes())));
  if (tape) tape->x = x;
  return Network::forward(x.flatten(0, 1), tape).unflatten(0, {-1, x.size(1)}).mean(1);
}

Tensor AveragedNetwork::backward(const Tensor& g, const Tape& tape, const Sink& sink,
                                 bool needs_input) const {
  const auto n = tape.x.size(0), copies = tape.x.size(1);
  Sink each = [&](const Block& block, const Tensor& x, const Tensor& at_output) {
    sink(blocks_(block), split_copies(x, n, 0), split_copies(at_output, n, 1));
  };
  if (sink.wants) each.wants = [&](const Block& block) { return sink.wants(blocks_(block)); };
  each.bend = sink.bend;
  const auto share = (g / static_cast<double>(copies)).unsqueeze(2).expand({-1, -1, copies, -1});
  const auto dx = Network::backward(share.flatten(1, 2), tape, each, needs_input);
  return needs_input ? split_copies(dx, n, 1) : dx;
}

Tensor AveragedNetwork::jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const {
  Tangents each;
  each.bend = tangents.bend;
  if (tangents.directions)
    each.directions = [&](const Block& block) { return tangents.directions(blocks_(block)); };
  if (tangents.outputs)
    each.outputs = [&](const Block& block) {
      const auto all = tangents.outputs(blocks_(block));  // [R, n, K, ...]
      return all.defined() ? all.flatten(1, 2) : all;
    };
  const auto dy = Network::jvp(dx.defined() ? dx.flatten(1, 2) : dx, tape, each);
  return dy.defined() ? split_copies(dy, tape.x.size(0), 1).mean(2) : dy;
}

void AveragedNetwork::visit_blocks(const std::function<void(Block&)>& visit) {
  for (auto* block : blocks_.all()) visit(*block);
}

}  // namespace evariste
