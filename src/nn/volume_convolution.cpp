#include "nn/volume_convolution.h"

#include <algorithm>

#include "laplace/gram.h"
#include "laplace/statistics.h"

namespace evariste {

VolumeConvBlock::VolumeConvBlock(Tensor weight, VolumeGeometry geometry)
    : Block(std::move(weight)), geometry_(geometry) {}

Tensor VolumeConvBlock::to_matrix(const Tensor& weight) const {
  return weight.reshape({geometry_.groups, weight.size(0) / geometry_.groups, -1});
}

VolumeGeometry::Sizes VolumeConvBlock::inner_padding() const {
  return geometry_.circular ? VolumeGeometry::all(0) : geometry_.padding;
}

Tensor VolumeConvBlock::pad(const Tensor& x) const {
  const auto [pz, py, px] = geometry_.padding;
  if (!geometry_.circular || pz + py + px == 0) return x;
  return at::pad(x, {px, px, py, py, pz, pz}, "circular");
}

Tensor VolumeConvBlock::crop(const Tensor& g) const {
  if (!geometry_.circular) return g;
  auto out = g;
  for (size_t d = 0; d < 3; ++d) {
    const auto p = geometry_.padding[d], axis = static_cast<int64_t>(d) + 2;
    if (p == 0) continue;
    const auto size = out.size(axis) - 2 * p;
    auto inner = out.narrow(axis, p, size).clone();  // a padded slice is a copy of one inside
    inner.narrow(axis, size - p, p) += out.narrow(axis, 0, p);
    inner.narrow(axis, 0, p) += out.narrow(axis, size + p, p);
    out = inner;
  }
  return out;
}

Tensor VolumeConvBlock::phi(const Tensor& x) const {
  auto padded = pad(x);
  const auto [pz, py, px] = inner_padding();
  if (pz + py + px > 0) padded = at::constant_pad_nd(padded, {px, px, py, py, pz, pz});
  const auto size = geometry_.output_of(x.sizes());
  std::vector<Tensor> entries;  // of the kernel, each what it sees: [n, C, D', H', W']
  VolumeGeometry::Sizes k{};
  for (k[0] = 0; k[0] < geometry_.kernel[0]; ++k[0])
    for (k[1] = 0; k[1] < geometry_.kernel[1]; ++k[1])
      for (k[2] = 0; k[2] < geometry_.kernel[2]; ++k[2]) {
        auto seen = padded;
        for (size_t d = 0; d < 3; ++d) {
          const auto first = k[d] * geometry_.dilation[d];
          seen = seen.slice(static_cast<int64_t>(d) + 2, first,
                            first + (size[d] - 1) * geometry_.stride[d] + 1, geometry_.stride[d]);
        }
        entries.push_back(seen);
      }
  const auto n = x.size(0), groups = geometry_.groups, c = x.size(1) / groups;
  return torch::stack(entries, 2)  // [n, C, P, D', H', W']
      .view({n, groups, c * geometry_.points(), -1})
      .permute({1, 0, 3, 2});
}

Tensor VolumeConvBlock::to_positions(const Tensor& y) const {
  return y.reshape({y.size(0), geometry_.groups, weight_.size(0) / geometry_.groups, -1})
      .permute({1, 0, 3, 2});
}

Tensor VolumeConvBlock::from_positions(const Tensor& y, const Tensor& x) const {
  const auto [d, h, w] = geometry_.output_of(x.sizes());
  return y.permute({1, 0, 3, 2}).reshape({y.size(1), weight_.size(0), d, h, w});
}

Tensor VolumeConvBlock::apply(const Tensor& matrix, const Tensor& x) const {
  return at::convolution(pad(x), matrix.reshape(weight_.sizes()), {}, geometry_.stride,
                         inner_padding(), geometry_.dilation, false, {0, 0, 0}, geometry_.groups);
}

Tensor VolumeConvBlock::backward_data(const Tensor& g, const Tensor& x) const {
  auto shape = x.sizes().vec();
  shape[0] = g.size(0);
  for (size_t d = 0; d < 3; ++d) shape[d + 2] += geometry_.circular ? 2 * geometry_.padding[d] : 0;
  const auto like = torch::empty(shape, x.options());  // its sizes alone matter
  const auto gradients = at::convolution_backward(
      g, like, weight_, c10::nullopt, geometry_.stride, inner_padding(), geometry_.dilation, false,
      {0, 0, 0}, geometry_.groups, {true, false, false});
  return crop(std::get<0>(gradients));
}

Tensor VolumeConvBlock::gradient(const Tensor& x, const Tensor& g) const {
  const auto gradients = at::convolution_backward(
      g, pad(x), weight_, c10::nullopt, geometry_.stride, inner_padding(), geometry_.dilation,
      false, {0, 0, 0}, geometry_.groups, {false, true, false});
  return to_matrix(std::get<1>(gradients));
}

Tensor VolumeConvBlock::input_gram(const Tensor& x) const {
  const auto [d, h, w] = geometry_.output_of(x.sizes());
  const auto entries = d * h * w * x.size(1) * geometry_.points();
  const auto n = x.size(0), tile = std::clamp<int64_t>(cached_entries(x) / entries, 1, n);
  Tensor sum;
  for (int64_t begin = 0; begin < n; begin += tile) {
    const auto rows = phi(x.narrow(0, begin, std::min(tile, n - begin))).flatten(1, 2);
    const auto part = gram(rows);
    sum = sum.defined() ? sum.add_(part) : part;
  }
  return sum;
}

double VolumeConvBlock::input_gram_flops(const Tensor& x) const {
  const auto [d, h, w] = geometry_.output_of(x.sizes());
  const auto features = static_cast<double>(x.size(1) / geometry_.groups * geometry_.points());
  return static_cast<double>(geometry_.groups * x.size(0) * d * h * w) * features * (features + 1);
}

Conv3d::Conv3d(int64_t inputs, int64_t outputs, const VolumeGeometry& geometry, bool bias) {
  const auto fan_in = inputs / geometry.groups * geometry.points();
  const double bound = 1 / std::sqrt(static_cast<double>(fan_in));
  const auto w = register_parameter(
      "weight", torch::empty(geometry.weight_shape(outputs, inputs)).uniform_(-bound, bound));
  std::unique_ptr<Block> b;
  if (bias)
    b = std::make_unique<BiasBlock>(
        register_parameter("bias", torch::empty({outputs}).uniform_(-bound, bound)),
        std::vector<int64_t>{1, outputs, 1, 1, 1}, BiasBlock::Axis::kFirst);
  set_blocks(std::make_unique<VolumeConvBlock>(w, geometry), std::move(b));
}

AvgPool3d::AvgPool3d(VolumeGeometry::Sizes kernel, VolumeGeometry::Sizes stride,
                     VolumeGeometry::Sizes padding)
    : kernel_(kernel), stride_(stride), padding_(padding) {}

Tensor AvgPool3d::forward(const Tensor& x, Tape* tape) const {
  if (tape) tape->x = x;
  return at::avg_pool3d(x, kernel_, stride_, padding_);
}

Tensor AvgPool3d::jvp(const Tensor& dx, const Tape&, const Tangents&) const {
  return dx.defined() ? unfold(forward(fold(dx), nullptr), dx.size(0)) : dx;
}

Tensor AvgPool3d::transpose(const Tensor& g, const Tape& tape) const {
  auto shape = tape.x.sizes().vec();
  shape[0] = g.size(0);
  return at::avg_pool3d_backward(g.contiguous(), torch::empty(shape, g.options()), kernel_, stride_,
                                 padding_, false, true, c10::nullopt);
}

}  // namespace evariste
