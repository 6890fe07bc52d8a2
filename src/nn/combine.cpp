#include "nn/combine.h"

#include <set>

#include "nn/pointwise.h"

namespace evariste {

void Sequential::before_polyphase(int64_t stride) {
  if (!layers_.empty()) layers_.back()->before_polyphase(stride);
}

void Sequential::append(std::shared_ptr<Layer> layer) {
  if (const auto polyphase = std::dynamic_pointer_cast<Polyphase>(layer))
    before_polyphase(polyphase->stride());
  register_module(std::to_string(layers_.size()), layer);
  layers_.push_back(std::move(layer));
}

void Sequential::replace(size_t i, const std::shared_ptr<Layer>& layer) {
  replace_module(std::to_string(i), layer);
  layers_[i] = layer;
  if (i + 1 == layers_.size()) return;
  if (const auto polyphase = std::dynamic_pointer_cast<Polyphase>(layers_[i + 1]))
    layer->before_polyphase(polyphase->stride());
}

Tensor Sequential::forward(const Tensor& x, Tape* tape) const {
  if (tape) tape->children.resize(layers_.size());
  auto y = x;
  for (size_t i = 0; i < layers_.size(); ++i)
    y = layers_[i]->forward(y, tape ? &tape->children[i] : nullptr);
  return y;
}

Tensor Sequential::backward(const Tensor& g, const Tape& tape, const Sink& sink,
                            bool needs_input) const {
  size_t first = 0;  // nobody needs a cotangent below it
  while (!needs_input && first < layers_.size() && !sink.wants_any_of(*layers_[first])) ++first;
  auto cotangent = g;
  for (size_t i = layers_.size(); i-- > first;)
    cotangent = layers_[i]->backward(cotangent, tape.children[i], sink, needs_input || i > first);
  return needs_input ? cotangent : Tensor();
}

Tensor Sequential::sequential_backward_onto(const Tensor& skip, const Tensor& g, const Tape& tape,
                                            const Sink& sink) const {
  if (layers_.empty()) return skip + g;
  auto cotangent = g;
  for (size_t i = layers_.size(); i-- > 1;)
    cotangent = layers_[i]->backward(cotangent, tape.children[i], sink, true);
  return layers_[0]->backward_onto(skip, cotangent, tape.children[0], sink);
}

Tensor Sequential::jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const {
  auto dy = dx;
  for (size_t i = 0; i < layers_.size(); ++i) dy = layers_[i]->jvp(dy, tape.children[i], tangents);
  return dy;
}

void Sequential::visit_blocks(const std::function<void(Block&)>& visit) {
  for (const auto& layer : layers_) layer->visit_blocks(visit);
}

Tensor Residual::forward(const Tensor& x, Tape* tape) const {
  return x + Sequential::forward(x, tape);
}

Tensor Residual::backward(const Tensor& g, const Tape& tape, const Sink& sink,
                          bool needs_input) const {
  return needs_input ? sequential_backward_onto(g, g, tape, sink)
                     : Sequential::backward(g, tape, sink, false);
}

Tensor Residual::jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const {
  const auto dy = Sequential::jvp(dx, tape, tangents);
  if (!dx.defined()) return dy;
  return dy.defined() ? dx + dy : dx;
}

Repeat::Repeat(const std::vector<std::shared_ptr<Layer>>& body, int64_t times) : times_(times) {
  for (const auto& layer : body) append(layer);
  std::vector<Block*> ones;
  Sequential::visit_blocks([&](Block& block) { ones.push_back(&block); });
  blocks_ = RepeatedBlocks(ones, RepeatedBlock::Of::kUses);
}

Tensor Repeat::forward(const Tensor& x, Tape* tape) const {
  const auto times = static_cast<size_t>(times_);
  if (tape) tape->children.resize(times);
  auto y = x;
  for (size_t k = 0; k < times; ++k)
    y = Sequential::forward(y, tape ? &tape->children[k] : nullptr);
  return y;
}

Tensor Repeat::backward(const Tensor& g, const Tape& tape, const Sink& sink,
                        bool needs_input) const {
  const auto times = static_cast<size_t>(times_);
  struct Uses {
    std::vector<Tensor> x, g;  // [n, ...], [R n, ...]
  };
  std::map<const Block*, Uses> uses;
  size_t k = times;
  Sink one = [&](const Block& block, const Tensor& x, const Tensor& at_output) {
    auto& of = uses[&block];
    of.x.resize(times), of.g.resize(times);
    of.x[k] = x, of.g[k] = fold(at_output);
    if (k > 0) return;
    sink(blocks_(block), stack_uses(of.x), unfold(stack_uses(of.g), at_output.size(0)));
    uses.erase(&block);
  };
  if (sink.wants) one.wants = [&](const Block& block) { return sink.wants(blocks_(block)); };
  one.bend = sink.bend;
  auto cotangent = g;
  while (k-- > 0)
    cotangent = Sequential::backward(cotangent, tape.children[k], one, needs_input || k > 0);
  return cotangent;
}

Tensor Repeat::jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const {
  auto dy = dx;
  for (size_t k = 0; k < static_cast<size_t>(times_); ++k) {
    Tangents one;
    one.bend = tangents.bend;
    if (tangents.directions)
      one.directions = [&](const Block& block) { return tangents.directions(blocks_(block)); };
    if (tangents.outputs)
      one.outputs = [&](const Block& block) {
        const auto all = tangents.outputs(blocks_(block));  // [R, n, K, ...]
        return all.defined() ? all.select(2, static_cast<int64_t>(k)) : all;
      };
    dy = Sequential::jvp(dy, tape.children[k], one);
  }
  return dy;
}

void Repeat::visit_blocks(const std::function<void(Block&)>& visit) {
  for (auto* block : blocks_.all()) visit(*block);
}

void Sum::before_polyphase(int64_t stride) {
  for (const auto& path : paths_) path->before_polyphase(stride);
}

void Sum::append(std::shared_ptr<Layer> path) {
  register_module(std::to_string(paths_.size()), path);
  auto inner = std::dynamic_pointer_cast<Sum>(path);
  if (const auto& held = *path; typeid(held) == typeid(Sequential)) {
    const auto& layers = static_cast<const Sequential&>(held).layers();
    if (!layers.empty()) inner = std::dynamic_pointer_cast<Sum>(layers[0]);
    for (size_t i = 1; i < layers.size(); ++i)
      layers[i]->visit_blocks([&](Block&) { inner = nullptr; });
  }
  if (inner) inner->is_inner_ = true;
  inner_.push_back(std::move(inner));
  paths_.push_back(std::move(path));
}

size_t Sum::count_pathways() const {
  size_t count = 0;
  for (const auto& inner : inner_)
    count += inner && inner->scale_ == 0 ? inner->count_pathways() : 1;
  return count;
}

double Sum::scale() const {
  if (scale_ != 0) return scale_;
  return is_inner_ ? 1.0 : 1.0 / static_cast<double>(count_pathways());
}

void Sum::replace(size_t k, const std::shared_ptr<Layer>& path) {
  replace_module(std::to_string(k), path);
  paths_[k] = path;
}

Tensor Sum::forward(const Tensor& x, Tape* tape) const {
  if (tape) tape->children.resize(paths_.size());
  Tensor y;
  for (size_t k = 0; k < paths_.size(); ++k) {
    const auto out = paths_[k]->forward(x, tape ? &tape->children[k] : nullptr);
    if (tape) tape->children[k].output = out;
    y = y.defined() ? y + out : out;
  }
  return y * scale();
}

Tensor Sum::backward(const Tensor& g, const Tape& tape, const Sink& sink, bool needs_input) const {
  const auto scaled = g * scale();
  Tensor dx;
  for (size_t k = 0; k < paths_.size(); ++k) {
    const auto part = paths_[k]->backward(scaled, tape.children[k], sink, needs_input);
    if (needs_input) dx = dx.defined() ? dx + part : part;
  }
  return dx;
}

Tensor Sum::jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const {
  Tensor dy;
  for (size_t k = 0; k < paths_.size(); ++k) {
    const auto part = paths_[k]->jvp(dx, tape.children[k], tangents);
    if (part.defined()) dy = dy.defined() ? dy + part : part;
  }
  return dy.defined() ? dy * scale() : dy;
}

void Sum::visit_blocks(const std::function<void(Block&)>& visit) {
  for (const auto& path : paths_) path->visit_blocks(visit);
}

std::vector<Choices> pathways_of(const Sum& sum) {
  std::vector<Choices> out;
  for (size_t k = 0; k < sum.paths().size(); ++k) {
    if (const auto* inner = sum.inner_sum(k)) {
      for (auto& choices : pathways_of(*inner)) {
        choices.insert(choices.begin(), {&sum, k});
        out.push_back(std::move(choices));
      }
    } else {
      out.push_back({{&sum, k}});
    }
  }
  return out;
}

std::vector<std::pair<std::string, const Sum*>> outer_sums(const torch::nn::Module& network) {
  std::vector<std::pair<std::string, const Sum*>> out;
  std::set<const Sum*> inner;
  for (const auto& item : network.named_modules("", false)) {  // an outer sum before its inner ones
    const auto* sum = dynamic_cast<const Sum*>(item.value().get());
    if (!sum) continue;
    for (size_t k = 0; k < sum->paths().size(); ++k) inner.insert(sum->inner_sum(k));
    if (!inner.contains(sum)) out.emplace_back(item.key(), sum);
  }
  return out;
}

}  // namespace evariste
