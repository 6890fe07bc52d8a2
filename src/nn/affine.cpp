#include "nn/affine.h"

#include "core/error.h"

namespace evariste {

ScaleBlock::ScaleBlock(Tensor weight, std::vector<int64_t> broadcast)
    : Block(std::move(weight)), broadcast_(std::move(broadcast)) {}

Tensor ScaleBlock::phi(const Tensor& x) const {  // -> [Q, n, T, 1]
  const auto q = weight_.numel();
  return x.reshape({x.size(0), q, -1, 1}).transpose(0, 1);
}

Tensor ScaleBlock::to_positions(const Tensor& y) const { return phi(y); }

Tensor ScaleBlock::from_positions(const Tensor& y, const Tensor& x) const {
  auto shape = x.sizes().vec();
  shape[0] = y.size(1);
  return y.transpose(0, 1).reshape(shape);
}

Tensor ScaleBlock::apply(const Tensor& matrix, const Tensor& x) const {
  return matrix.reshape(broadcast_) * x;
}

Tensor ScaleBlock::backward_data(const Tensor& g, const Tensor&) const {
  return weight_.reshape(broadcast_) * g;
}

Scale::Scale() {
  const auto w = register_parameter("weight", torch::ones({1}));
  set_blocks(std::make_unique<ScaleBlock>(w, std::vector<int64_t>{}), nullptr);
}

ScalarBias::ScalarBias() {
  bias_ = std::make_unique<BiasBlock>(register_parameter("bias", torch::zeros({1})),
                                      std::vector<int64_t>{}, BiasBlock::Axis::kLast);
}

Tensor ScalarBias::forward(const Tensor& x, Tape* tape) const {
  if (tape) tape->x = x;
  return x + bias_->apply(bias_->value(), x);
}

Tensor ScalarBias::backward(const Tensor& g, const Tape& tape, const Sink& sink, bool) const {
  sink(*bias_, tape.x, g);
  return g;
}

Tensor ScalarBias::jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const {
  const auto db = tangents(*bias_, tape.x);
  if (!db.defined()) return dx;
  return add_tangent(dx.defined() ? dx : torch::zeros_like(tape.x).unsqueeze(0), db);
}

void ScalarBias::visit_blocks(const std::function<void(Block&)>& visit) { visit(*bias_); }

Norm::Norm(Kind kind, std::vector<int64_t> shape, int64_t groups, double epsilon, bool affine,
           double momentum)
    : kind_(kind),
      shape_(std::move(shape)),
      groups_(groups),
      epsilon_(epsilon),
      momentum_(momentum) {
  const auto channels = shape_[0];
  if (affine) {
    const auto own = kind_ == Kind::kLayer ? shape_ : std::vector<int64_t>{channels};
    auto broadcast = shape_;
    if (kind_ != Kind::kLayer) std::fill(broadcast.begin() + 1, broadcast.end(), 1);
    broadcast.insert(broadcast.begin(), 1);
    weight_ =
        std::make_unique<ScaleBlock>(register_parameter("weight", torch::ones(own)), broadcast);
    bias_ = std::make_unique<BiasBlock>(register_parameter("bias", torch::zeros(own)), broadcast,
                                        BiasBlock::Axis::kFirst);
    weight_->bias = bias_.get();
  }
  if (kind_ == Kind::kBatch) {
    running_mean_ = register_buffer("running_mean", torch::zeros({channels}));
    running_var_ = register_buffer("running_var", torch::ones({channels}));
    batches_ = register_buffer("num_batches_tracked", torch::zeros({}, torch::kLong));
  }
}

std::vector<int64_t> Norm::statistics_shape(const Tensor& x) const {
  if (kind_ == Kind::kLayer) return {x.size(0), 1, -1};
  return {x.size(0), groups_, -1};
}

Tensor Norm::normalise(const Tensor& x, Tensor* inverse_std) const {
  if (kind_ == Kind::kBatch) {
    std::vector<int64_t> view(x.dim(), 1);
    view[1] = x.size(1);
    auto mean = running_mean_, variance = running_var_;
    if (is_training()) {
      const auto flat = x.transpose(0, 1).flatten(1);
      mean = flat.mean(1);
      variance = flat.var(1, false);
      torch::NoGradGuard no_grad;
      const auto count = static_cast<double>(flat.size(1));
      running_mean_.mul_(1 - momentum_).add_(mean, momentum_);
      running_var_.mul_(1 - momentum_).add_(variance, momentum_ * count / std::max(1.0, count - 1));
      batches_.add_(1);
    }
    const auto inverse = (variance + epsilon_).rsqrt().view(view);
    if (inverse_std) *inverse_std = inverse;
    return (x - mean.view(view)) * inverse;
  }
  const auto flat = x.reshape(statistics_shape(x));
  const auto inverse = (flat.var(2, false, true) + epsilon_).rsqrt();
  if (inverse_std) *inverse_std = inverse;
  return ((flat - flat.mean(2, true)) * inverse).view(x.sizes());
}

Tensor Norm::forward(const Tensor& x, Tape* tape) const {
  if (tape && kind_ == Kind::kBatch && is_training())
    throw UsageError("batchnorm in training mode couples the samples of a batch: call eval()");
  Tensor inverse;
  auto y = normalise(x, &inverse);
  if (tape) {
    tape->x = y;
    tape->aux = inverse;
  }
  return weight_ ? weight_->apply(weight_->value(), y) + bias_->apply(bias_->value(), y) : y;
}

Tensor Norm::project(const Tensor& g, const Tape& tape, int64_t folds) const {
  if (kind_ == Kind::kBatch) return g * tape.aux;
  const auto normal = tape.x.reshape(statistics_shape(tape.x)).unsqueeze(0);
  auto shape = normal.sizes().vec();
  shape[0] = folds;
  const auto flat = g.reshape(shape);
  const auto centred = flat - flat.mean(3, true) - normal * (flat * normal).mean(3, true);
  return (centred * tape.aux.unsqueeze(0)).reshape(g.sizes());
}

Tensor Norm::backward(const Tensor& g, const Tape& tape, const Sink& sink, bool needs_input) const {
  auto inner = g;
  if (weight_) {
    sink(*weight_, tape.x, g);
    sink(*bias_, tape.x, g);
    if (needs_input) inner = unfold(weight_->backward_data(fold(g), tape.x), g.size(0));
  }
  if (sink.bend && bends()) sink.bend(*this, tape, g);
  return needs_input ? project(inner, tape, g.size(0)) : Tensor();
}

Tensor Norm::jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const {
  Tensor dy;
  const auto add = [&](const Tensor& term) { dy = dy.defined() ? dy + term : term; };
  if (dx.defined()) {
    if (tangents.bend && bends()) tangents.bend(*this, tape, dx);
    const auto inner = project(dx, tape, dx.size(0));
    add(weight_ ? unfold(weight_->apply(weight_->value(), fold(inner)), dx.size(0)) : inner);
  }
  if (!weight_) return dy;
  if (const auto dw = tangents(*weight_, tape.x); dw.defined()) add(dw);
  if (const auto db = tangents(*bias_, tape.x); db.defined())
    dy = add_tangent(dy.defined() ? dy : torch::zeros_like(tape.x).unsqueeze(0), db);
  return dy;
}

void Norm::visit_blocks(const std::function<void(Block&)>& visit) {
  if (!weight_) return;
  visit(*weight_);
  visit(*bias_);
}

}  // namespace evariste
