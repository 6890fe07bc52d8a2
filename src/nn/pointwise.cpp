#include "nn/pointwise.h"

#include <cmath>
#include <numbers>

#include "core/error.h"
#include "core/nearest.h"
#include "laplace/cuda/bind.h"

namespace evariste {
namespace {

using Options = ActivationOptions;

/// Derivative of 0.5 x (1 + tanh u), u = sqrt(2/pi) (x + c x^3) (Hendrycks & Gimpel 2016).
Tensor tanh_gelu_slope(const Tensor& x) {
  constexpr double c = 0.044715;
  const double scale = std::sqrt(2 / std::numbers::pi);
  const auto square = x.square();
  const auto t = (scale * x * (1 + c * square)).tanh();
  return 0.5 * (1 + t) + 0.5 * scale * x * (1 - t.square()) * (1 + 3 * c * square);
}

Tensor gelu_slope(const Tensor& x) {
  const auto density = (-0.5 * x.square()).exp() / std::sqrt(2 * std::numbers::pi);
  return 0.5 * (1 + (x / std::numbers::sqrt2).erf()) + x * density;
}

struct Function {
  const char* name;
  bool bends;
  Tensor (*value)(const Tensor& x, const Options& o);
  Tensor (*slope)(const Tensor& x, const Tensor& y, const Options& o);
};

const std::vector<Function>& functions() {
  static const std::vector<Function> table = {
      {"relu", false, [](const Tensor& x, const Options&) { return x.relu(); },
       [](const Tensor& x, const Tensor&, const Options&) { return (x > 0).to(x.scalar_type()); }},
      {"tanh", true, [](const Tensor& x, const Options&) { return x.tanh(); },
       [](const Tensor&, const Tensor& y, const Options&) { return 1 - y.square(); }},
      {"sigmoid", true, [](const Tensor& x, const Options&) { return x.sigmoid(); },
       [](const Tensor&, const Tensor& y, const Options&) { return y * (1 - y); }},
      {"gelu", true,
       [](const Tensor& x, const Options& o) { return at::gelu(x, o.tanh_gelu ? "tanh" : "none"); },
       [](const Tensor& x, const Tensor&, const Options& o) {
         return o.tanh_gelu ? tanh_gelu_slope(x) : gelu_slope(x);
       }},
      {"elu", true, [](const Tensor& x, const Options& o) { return at::elu(x, o.alpha); },
       [](const Tensor& x, const Tensor& y, const Options& o) {
         return torch::where(x > 0, torch::ones_like(x), y + o.alpha);
       }},
      {"silu", true, [](const Tensor& x, const Options&) { return at::silu(x); },
       [](const Tensor& x, const Tensor&, const Options&) {
         const auto s = x.sigmoid();
         return s * (1 + x * (1 - s));
       }},
      {"softplus", true,
       [](const Tensor& x, const Options& o) { return at::softplus(x, o.beta, o.threshold); },
       [](const Tensor& x, const Tensor&, const Options& o) {
         const auto scaled = o.beta * x;
         return torch::where(scaled > o.threshold, torch::ones_like(x), scaled.sigmoid());
       }},
  };
  return table;
}

/// [n, C, L] as [n, C, 1, L]; images as they are.
Tensor as_image(const Tensor& x) { return x.dim() == 3 ? x.unsqueeze(2) : x; }
Tensor from_image(const Tensor& y, const Tensor& x) { return x.dim() == 3 ? y.squeeze(2) : y; }

/// g laid out in memory as x is: mixed layouts slow down whatever comes next.
Tensor laid_out_as(const Tensor& g, const Tensor& x) {
  return g.contiguous(x.suggest_memory_format());
}

}  // namespace

std::vector<std::string> Activation::kinds() {
  std::vector<std::string> names;
  for (const auto& f : functions()) names.emplace_back(f.name);
  return names;
}

Activation::Activation(std::string_view kind, const ActivationOptions& options)
    : value_(nullptr), slope_(nullptr), options_(options) {
  for (const auto& f : functions()) {
    if (kind != f.name) continue;
    bends_ = f.bends;
    is_rectifier_ = kind == "relu";
    value_ = f.value;
    slope_ = f.slope;
  }
  if (!value_) throw UsageError(unknown_name("activation", kind, kinds()));
}

namespace {

/// g [R, n, ...] times the slopes, which are bits where a rectifier ran on a GPU; `entries` of
/// them; onto `skip` if it is defined.
Tensor times_slopes(const Tensor& g, const Tensor& slopes, int64_t entries,
                    const Tensor& skip = {}) {
  if (slopes.scalar_type() == torch::kInt32) return cuda::masked_backward(g, slopes, entries, skip);
  return skip.defined() ? at::addcmul(skip, g, slopes) : g * slopes;
}

}  // namespace

Tensor Activation::forward(const Tensor& x, Tape* tape) const {
  auto y = value_(x, options_);
  if (tape)
    tape->aux = is_rectifier_ && cuda::takes(x) ? cuda::pack_positive(x) : slope_(x, y, options_);
  return y;
}

Tensor Activation::backward(const Tensor& g, const Tape& tape, const Sink& sink, bool) const {
  if (sink.bend && bends()) sink.bend(*this, tape, g);
  return times_slopes(g, tape.aux, g.numel() / g.size(0));
}

Tensor Activation::backward_onto(const Tensor& skip, const Tensor& g, const Tape& tape,
                                 const Sink& sink) const {
  if (sink.bend && bends()) sink.bend(*this, tape, g);
  return times_slopes(g, tape.aux, g.numel() / g.size(0), skip);
}

Tensor Activation::jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const {
  if (!dx.defined()) return dx;
  if (tangents.bend && bends()) tangents.bend(*this, tape, dx);
  return times_slopes(dx, tape.aux, dx.numel() / dx.size(0));
}

Tensor Gather::backward(const Tensor& g, const Tape& tape, const Sink&, bool needs_input) const {
  return needs_input ? unfold(transpose(fold(g), tape), g.size(0)) : Tensor();
}

MaxPool::MaxPool(std::array<int64_t, 2> kernel, std::array<int64_t, 2> stride,
                 std::array<int64_t, 2> padding)
    : kernel_(kernel), stride_(stride), padding_(padding) {}

Tensor MaxPool::forward(const Tensor& x, Tape* tape) const {
  auto [y, winner] = at::max_pool2d_with_indices(as_image(x), kernel_, stride_, padding_);
  if (tape) {
    tape->x = x;
    tape->aux = winner;
  }
  return from_image(y, x);
}

Tensor MaxPool::jvp(const Tensor& dx, const Tape& tape, const Tangents&) const {
  if (!dx.defined()) return dx;
  auto shape = forward(tape.x, nullptr).sizes().vec();
  shape.insert(shape.begin(), dx.size(0));
  return dx.flatten(3)
      .gather(3, tape.aux.flatten(2).unsqueeze(0).expand({dx.size(0), -1, -1, -1}))
      .view(shape);
}

Tensor MaxPool::transpose(const Tensor& g, const Tape& tape) const {
  const auto x = as_image(tape.x);
  std::vector<Tensor> folds;  // each laid out in memory as x is
  for (const auto& fold : as_image(g).split(x.size(0)))
    folds.push_back(at::max_pool2d_with_indices_backward(fold, x, kernel_, stride_, padding_,
                                                         {1, 1}, false, tape.aux));
  return from_image(torch::cat(folds), g);
}

AvgPool::AvgPool(std::array<int64_t, 2> kernel, std::array<int64_t, 2> stride,
                 std::array<int64_t, 2> padding)
    : kernel_(kernel), stride_(stride), padding_(padding) {}

Tensor AvgPool::forward(const Tensor& x, Tape* tape) const {
  if (tape) tape->x = x;
  return from_image(at::avg_pool2d(as_image(x), kernel_, stride_, padding_), x);
}

Tensor AvgPool::jvp(const Tensor& dx, const Tape&, const Tangents&) const {
  return dx.defined() ? unfold(forward(fold(dx), nullptr), dx.size(0)) : dx;
}

Tensor AvgPool::transpose(const Tensor& g, const Tape& tape) const {
  const auto x = as_image(tape.x);
  auto shape = x.sizes().vec();
  shape[0] = g.size(0);
  const auto like = torch::empty(shape, g.options(), x.suggest_memory_format());
  const auto dx = at::avg_pool2d_backward(laid_out_as(as_image(g), x), like, kernel_, stride_,
                                          padding_, false, true, c10::nullopt);
  return from_image(dx, tape.x);
}

Tensor GlobalAvgPool::forward(const Tensor& x, Tape* tape) const {
  if (tape) tape->x = x;
  return x.flatten(2).mean(2);
}

Tensor GlobalAvgPool::jvp(const Tensor& dx, const Tape&, const Tangents&) const {
  return dx.defined() ? unfold(forward(fold(dx), nullptr), dx.size(0)) : dx;
}

Tensor GlobalAvgPool::transpose(const Tensor& g, const Tape& tape) const {
  auto shape = tape.x.sizes().vec();
  shape[0] = g.size(0);
  const auto positions = tape.x[0][0].numel();
  const auto each = (g / static_cast<double>(positions)).unsqueeze(2);
  return laid_out_as(each.expand({-1, -1, positions}).view(shape), tape.x);
}

Tensor Flatten::forward(const Tensor& x, Tape* tape) const {
  if (tape) tape->x = x;
  return x.flatten(1);
}

Tensor Flatten::jvp(const Tensor& dx, const Tape&, const Tangents&) const {
  return dx.defined() ? dx.flatten(2) : dx;
}

Tensor Flatten::transpose(const Tensor& g, const Tape& tape) const {
  auto shape = tape.x.sizes().vec();
  shape[0] = g.size(0);
  return laid_out_as(g.reshape(shape), tape.x);
}

Polyphase::Polyphase(int64_t stride) : stride_(stride) {}

Tensor Polyphase::phases(const Tensor& x) const {
  const auto n = x.size(0), c = x.size(1), h = x.size(2) / stride_, w = x.size(3) / stride_;
  // Phase index j s + i, so that the row offset i runs first: the order of ties.
  return x.reshape({n, c, h, stride_, w, stride_})
      .permute({0, 5, 3, 1, 2, 4})
      .reshape({n, stride_ * stride_, c, h, w});
}

Tensor Polyphase::forward(const Tensor& x, Tape* tape) const {
  const auto all = phases(x);
  const auto chosen = all.flatten(2).amax(2).argmax(1);  // the first of equal maxima
  if (tape) {
    tape->x = x;
    tape->aux = chosen;
  }
  return all.index({torch::arange(x.size(0), chosen.options()), chosen});
}

Tensor Polyphase::jvp(const Tensor& dx, const Tape& tape, const Tangents&) const {
  if (!dx.defined()) return dx;
  const auto chosen = tape.aux.repeat({dx.size(0)});
  return unfold(phases(fold(dx)).index({torch::arange(chosen.size(0), chosen.options()), chosen}),
                dx.size(0));
}

Tensor Polyphase::transpose(const Tensor& g, const Tape& tape) const {
  const auto m = g.size(0), c = g.size(1), h = g.size(2), w = g.size(3);
  auto all = torch::zeros({m, stride_ * stride_, c, h, w}, g.options());
  const auto chosen = tape.aux.repeat({m / tape.x.size(0)});
  all.index_put_({torch::arange(m, chosen.options()), chosen}, g);
  return all.view({m, stride_, stride_, c, h, w})
      .permute({0, 3, 4, 2, 5, 1})
      .reshape({m, c, h * stride_, w * stride_});
}

Tensor Dropout::forward(const Tensor& x, Tape* tape) const {
  if (!is_training() || p_ == 0) return x;
  const auto mask = (torch::rand_like(x) >= p_).to(x.scalar_type()) / (1 - p_);
  if (tape) tape->aux = mask;
  return x * mask;
}

Tensor Dropout::backward(const Tensor& g, const Tape& tape, const Sink&, bool) const {
  return tape.aux.defined() ? g * tape.aux : g;
}

Tensor Dropout::jvp(const Tensor& dx, const Tape& tape, const Tangents&) const {
  return dx.defined() && tape.aux.defined() ? dx * tape.aux : dx;
}

}  // namespace evariste
