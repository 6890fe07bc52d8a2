#include "nn/resample.h"

#include <cmath>

#include "core/expect.h"

namespace evariste {
namespace {

Tensor laid_out_as(const Tensor& y, const Tensor& x) {
  return y.contiguous(x.suggest_memory_format());
}

/// Of the sizes of g but for one axis.
Tensor zeros_like_but(const Tensor& g, int64_t axis, int64_t side) {
  auto shape = g.sizes().vec();
  shape[static_cast<size_t>(axis)] = side;
  return torch::empty(shape, g.options().memory_format(g.suggest_memory_format())).zero_();
}

}  // namespace

int64_t BlurPool::size_of(double sigma) { return 2 * std::llround(3 * sigma) + 1; }

BlurPool::BlurPool(double sigma, int64_t stride, std::optional<int64_t> padding) : stride_(stride) {
  expect_positive("sigma", sigma);
  const auto size = size_of(sigma), reach = size / 2;
  padding_ = padding.value_or(reach);
  double total = 0;
  for (int64_t d = -reach; d <= reach; ++d) {
    weights_.push_back(std::exp(-0.5 * static_cast<double>(d * d) / (sigma * sigma)));
    total += weights_.back();
  }
  for (auto& w : weights_) w /= total;
}

int64_t BlurPool::output_of(int64_t side) const {
  const auto room = side + 2 * padding_ - size();
  return room < 0 ? 0 : room / stride_ + 1;
}

Tensor BlurPool::along(const Tensor& x, int64_t axis) const {
  const auto length = output_of(x.size(axis));
  std::vector<int64_t> beside(static_cast<size_t>(2 * (x.dim() - axis)), 0);  // last axis first
  beside[beside.size() - 2] = beside[beside.size() - 1] = padding_;
  const auto padded = padding_ > 0 ? at::constant_pad_nd(x, beside) : x;
  Tensor y;
  for (int64_t d = 0; d < size(); ++d) {
    const auto seen = padded.slice(axis, d, d + (length - 1) * stride_ + 1, stride_);
    const double w = weights_[static_cast<size_t>(d)];
    y = y.defined() ? y.add_(seen, w) : seen * w;
  }
  return y;
}

Tensor BlurPool::back_along(const Tensor& g, int64_t axis, int64_t side) const {
  const auto padded = zeros_like_but(g, axis, side + 2 * padding_);
  for (int64_t d = 0; d < size(); ++d)
    padded.slice(axis, d, d + (g.size(axis) - 1) * stride_ + 1, stride_)
        .add_(g, weights_[static_cast<size_t>(d)]);
  return padded.narrow(axis, padding_, side);
}

Tensor BlurPool::forward(const Tensor& x, Tape* tape) const {
  if (tape) tape->x = x;
  auto y = x;
  for (int64_t axis = 2; axis < x.dim(); ++axis) y = along(y, axis);
  return y;
}

Tensor BlurPool::jvp(const Tensor& dx, const Tape&, const Tangents&) const {
  return dx.defined() ? unfold(forward(fold(dx), nullptr), dx.size(0)) : dx;
}

Tensor BlurPool::transpose(const Tensor& g, const Tape& tape) const {
  auto out = g;
  for (int64_t axis = g.dim() - 1; axis >= 2; --axis)
    out = back_along(out, axis, tape.x.size(axis));
  return laid_out_as(out, tape.x);
}

Upsample::Upsample(std::vector<int64_t> size, Mode mode) : size_(std::move(size)), mode_(mode) {}

Tensor Upsample::forward(const Tensor& x, Tape* tape) const {
  if (tape) tape->x = x;
  if (mode_ == Mode::kNearest)
    return size_.size() == 2 ? at::upsample_nearest2d(x, size_) : at::upsample_nearest3d(x, size_);
  return size_.size() == 2 ? at::upsample_bilinear2d(x, size_, false)
                           : at::upsample_trilinear3d(x, size_, false);
}

Tensor Upsample::jvp(const Tensor& dx, const Tape&, const Tangents&) const {
  return dx.defined() ? unfold(forward(fold(dx), nullptr), dx.size(0)) : dx;
}

Tensor Upsample::transpose(const Tensor& g, const Tape& tape) const {
  auto shape = tape.x.sizes().vec();
  shape[0] = g.size(0);
  const auto each = laid_out_as(g, tape.x);
  if (mode_ == Mode::kNearest)
    return size_.size() == 2 ? at::upsample_nearest2d_backward(each, size_, shape)
                             : at::upsample_nearest3d_backward(each, size_, shape);
  return size_.size() == 2 ? at::upsample_bilinear2d_backward(each, size_, shape, false)
                           : at::upsample_trilinear3d_backward(each, size_, shape, false);
}

DiscMask::DiscMask(const std::vector<int64_t>& sides, double margin, double sigma) {
  for (const auto side : sides)
    if (side != sides[0])
      throw UsageError(fmt::format(
          "a mask is a disc in a square or a ball in a cube: expected equal sides, found {} and {}",
          sides[0], side));
  expect(margin >= 0 && margin <= 100, "margin", "0 <= margin <= 100", margin);
  expect_positive("sigma", sigma);
  const double centre = 0.5 * static_cast<double>(sides[0] - 1);
  const double inner = std::pow(centre * (1 - margin / 100), 2);
  const auto place = (torch::arange(sides[0], torch::kFloat64) - centre).square();
  auto square = place;
  for (size_t axis = 1; axis < sides.size(); ++axis) square = square.unsqueeze(-1) + place;
  mask_ = ((inner - square) / (sigma * sigma)).exp().clamp_max(1);
}

Tensor DiscMask::forward(const Tensor& x, Tape*) const {
  const bool is_known =
      known_.defined() && known_.device() == x.device() && known_.scalar_type() == x.scalar_type();
  if (!is_known) known_ = mask_.to(x.options().requires_grad(false));
  return x * known_;
}

Tensor DiscMask::jvp(const Tensor& dx, const Tape&, const Tangents&) const {
  return dx.defined() ? forward(dx, nullptr) : dx;
}

Tensor DiscMask::transpose(const Tensor& g, const Tape&) const { return forward(g, nullptr); }

}  // namespace evariste
