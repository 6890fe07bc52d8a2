#include "nn/concat.h"

namespace evariste {

void Concat::append(std::shared_ptr<Layer> path) {
  register_module(std::to_string(paths_.size()), path);
  paths_.push_back(std::move(path));
}

Tensor Concat::forward(const Tensor& x, Tape* tape) const {
  if (tape) tape->children.resize(paths_.size());
  std::vector<Tensor> parts;
  std::vector<int64_t> channels;
  for (size_t k = 0; k < paths_.size(); ++k) {
    parts.push_back(paths_[k]->forward(x, tape ? &tape->children[k] : nullptr));
    channels.push_back(parts.back().size(1));
  }
  if (tape) tape->aux = torch::tensor(channels, torch::kInt64);
  return torch::cat(parts, 1);
}

Tensor Concat::backward(const Tensor& g, const Tape& tape, const Sink& sink,
                        bool needs_input) const {
  const auto* channels = tape.aux.const_data_ptr<int64_t>();
  Tensor dx;
  int64_t first = 0;
  for (size_t k = 0; k < paths_.size(); ++k) {
    const auto part =
        paths_[k]->backward(g.narrow(2, first, channels[k]), tape.children[k], sink, needs_input);
    first += channels[k];
    if (needs_input) dx = dx.defined() ? dx + part : part;
  }
  return dx;
}

Tensor Concat::jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const {
  const auto* channels = tape.aux.const_data_ptr<int64_t>();
  std::vector<Tensor> parts;
  Tensor known;
  for (size_t k = 0; k < paths_.size(); ++k) {
    parts.push_back(paths_[k]->jvp(dx, tape.children[k], tangents));
    if (parts.back().defined()) known = parts.back();
  }
  if (!known.defined()) return known;
  auto shape = known.sizes().vec();
  for (size_t k = 0; k < paths_.size(); ++k) {
    if (parts[k].defined()) continue;
    shape[2] = channels[k];
    parts[k] = torch::zeros(shape, known.options());
  }
  return torch::cat(parts, 2);
}

void Concat::before_polyphase(int64_t stride) {
  for (const auto& path : paths_) path->before_polyphase(stride);
}

void Concat::visit_blocks(const std::function<void(Block&)>& visit) {
  for (const auto& path : paths_) path->visit_blocks(visit);
}

}  // namespace evariste
