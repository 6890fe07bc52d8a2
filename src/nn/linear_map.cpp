#include "nn/linear_map.h"

namespace evariste {

void LinearMap::set_blocks(std::unique_ptr<Block> weight, std::unique_ptr<Block> bias) {
  weight_ = std::move(weight);
  bias_ = std::move(bias);
  weight_->bias = bias_.get();
}

Tensor LinearMap::forward(const Tensor& x, Tape* tape) const {
  if (tape) tape->x = x;
  auto y = weight_->apply(weight_->value(), x);
  return bias_ ? y + bias_->apply(bias_->value(), x) : y;
}

Tensor LinearMap::backward(const Tensor& g, const Tape& tape, const Sink& sink,
                           bool needs_input) const {
  sink(*weight_, tape.x, g);
  if (bias_) sink(*bias_, tape.x, g);
  if (sink.bend && bends()) sink.bend(*this, tape, g);
  if (!needs_input) return Tensor();
  return unfold(weight_->backward_data(fold(g), tape.x), g.size(0));
}

Tensor LinearMap::jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const {
  Tensor dy;
  if (dx.defined() && tangents.bend && bends()) tangents.bend(*this, tape, dx);
  if (dx.defined()) dy = unfold(weight_->apply(weight_->value(), fold(dx)), dx.size(0));
  if (const auto dw = tangents(*weight_, tape.x); dw.defined()) dy = dy.defined() ? dy + dw : dw;
  const auto db = bias_ ? tangents(*bias_, tape.x) : Tensor();
  if (!db.defined()) return dy;
  if (!dy.defined()) dy = torch::zeros_like(forward(tape.x, nullptr)).unsqueeze(0);
  return add_tangent(dy, db);
}

void LinearMap::visit_blocks(const std::function<void(Block&)>& visit) {
  visit(*weight_);
  if (bias_) visit(*bias_);
}

}  // namespace evariste
