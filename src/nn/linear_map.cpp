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
  if (!needs_input) return Tensor();
  return unfold(weight_->backward_data(fold(g), tape.x), g.size(0));
}

Tensor LinearMap::jvp(const Tensor& dx, const Tape& tape, const Direction& direction) const {
  Tensor dy;
  const auto add = [&](const Tensor& term) { dy = dy.defined() ? dy + term : term; };
  if (dx.defined()) add(weight_->apply(weight_->value(), dx));
  if (const auto dw = direction(*weight_); dw.defined()) add(weight_->apply(dw, tape.x));
  const auto db = bias_ ? direction(*bias_) : Tensor();
  if (!db.defined()) return dy;
  if (!dy.defined()) dy = torch::zeros_like(forward(tape.x, nullptr));  // a bias alone broadcasts
  return dy + bias_->apply(db, tape.x);
}

void LinearMap::visit_blocks(const std::function<void(Block&)>& visit) {
  visit(*weight_);
  if (bias_) visit(*bias_);
}

}  // namespace evariste
