#include "nn/transposed_convolution.h"

namespace evariste {
namespace {

Tensor laid_out_as(const Tensor& given, const Tensor& x) {
  return given.contiguous(x.suggest_memory_format());
}

template <size_t D>
std::vector<int64_t> with_grid(std::vector<int64_t> front, const std::array<int64_t, D>& grid) {
  front.insert(front.end(), grid.begin(), grid.end());
  return front;
}

}  // namespace

template <class Conv>
TransposedConvBlock<Conv>::TransposedConvBlock(Tensor weight, const Geometry& geometry)
    : Block(std::move(weight)), geometry_(geometry) {
  feature_power = feature_power_of(geometry);
}

template <class Conv>
double TransposedConvBlock<Conv>::feature_power_of(const Geometry& geometry) {
  double power = 1;
  for (const auto stride : geometry.stride) power /= static_cast<double>(stride);
  return power;
}

template <class Conv>
Tensor TransposedConvBlock<Conv>::to_matrix(const Tensor& weight) const {
  return weight.reshape({geometry_.groups, weight.size(0) / geometry_.groups, -1});
}

template <class Conv>
Tensor TransposedConvBlock<Conv>::to_torch(const Tensor& matrix) const {
  const auto sizes = kernel_sizes();
  const auto groups = geometry_.groups, outputs = sizes[0] / groups, inputs = sizes[1];
  return matrix.reshape({groups, outputs, inputs, geometry_.points()})
      .transpose(1, 2)
      .reshape(with_grid({groups * inputs, outputs}, geometry_.kernel));
}

template <class Conv>
Tensor TransposedConvBlock<Conv>::from_torch(const Tensor& weight) const {
  const auto groups = geometry_.groups, inputs = weight.size(0) / groups, outputs = weight.size(1);
  return weight.reshape({groups, inputs, outputs, geometry_.points()})
      .transpose(1, 2)
      .reshape({groups, outputs, inputs * geometry_.points()});
}

template <class Conv>
Conv TransposedConvBlock<Conv>::inner() const {
  typename Conv::Geometry geometry;
  geometry.kernel = geometry_.kernel;
  geometry.dilation = geometry_.dilation;
  geometry.groups = geometry_.groups;
  return Conv(torch::empty(kernel_sizes(), weight_.options().requires_grad(false)), geometry);
}

template <class Conv>
std::vector<int64_t> TransposedConvBlock<Conv>::stuffed_sizes(const Tensor& x) const {
  auto sizes = x.sizes().vec();
  for (size_t d = 0; d < Geometry::kDimension; ++d)
    sizes[d + 2] = (sizes[d + 2] - 1) * geometry_.stride[d] + 1 +
                   2 * (geometry_.dilation[d] * (geometry_.kernel[d] - 1) - geometry_.padding[d]) +
                   geometry_.output_padding[d];
  return sizes;
}

template <class Conv>
Tensor TransposedConvBlock<Conv>::stuffed(const Tensor& x) const {
  auto sizes = x.sizes().vec();
  std::vector<int64_t> beside;  // of the last axis first
  for (size_t d = 0; d < Geometry::kDimension; ++d) {
    sizes[d + 2] = (sizes[d + 2] - 1) * geometry_.stride[d] + 1;
    const auto before =
        geometry_.dilation[d] * (geometry_.kernel[d] - 1) - geometry_.padding[d];  // < 0: cropped
    beside.insert(beside.begin(), {before, before + geometry_.output_padding[d]});
  }
  const auto apart =
      torch::empty(sizes, x.options().memory_format(x.suggest_memory_format())).zero_();
  auto entries = apart;
  for (size_t d = 0; d < Geometry::kDimension; ++d) {
    const auto axis = static_cast<int64_t>(d) + 2;
    entries = entries.slice(axis, 0, sizes[d + 2], geometry_.stride[d]);
  }
  entries.copy_(x);
  return at::constant_pad_nd(apart, beside);
}

template <class Conv>
Tensor TransposedConvBlock<Conv>::turned(const Tensor& features) const {
  return features.unflatten(-1, {-1, geometry_.points()}).flip(-1).flatten(-2);
}

template <class Conv>
Tensor TransposedConvBlock<Conv>::phi(const Tensor& x) const {
  return turned(inner().phi(stuffed(x)));
}

template <class Conv>
Tensor TransposedConvBlock<Conv>::to_positions(const Tensor& y) const {
  return y.reshape({y.size(0), geometry_.groups, y.size(1) / geometry_.groups, -1})
      .permute({1, 0, 3, 2});
}

template <class Conv>
Tensor TransposedConvBlock<Conv>::from_positions(const Tensor& y, const Tensor& x) const {
  return y.permute({1, 0, 3, 2})
      .reshape(with_grid({y.size(1), y.size(0) * y.size(3)}, geometry_.output_of(x.sizes())));
}

template <class Conv>
Tensor TransposedConvBlock<Conv>::apply(const Tensor& matrix, const Tensor& x) const {
  return at::convolution(x, laid_out_as(to_torch(matrix), x), {}, geometry_.stride,
                         geometry_.padding, geometry_.dilation, true, geometry_.output_padding,
                         geometry_.groups);
}

template <class Conv>
Tensor TransposedConvBlock<Conv>::backward_data(const Tensor& g, const Tensor& x) const {
  auto shape = x.sizes().vec();
  shape[0] = g.size(0);
  const auto like = torch::empty(shape, x.options().memory_format(x.suggest_memory_format()));
  return std::get<0>(at::convolution_backward(
      laid_out_as(g, x), like, laid_out_as(to_torch(value()), x), c10::nullopt, geometry_.stride,
      geometry_.padding, geometry_.dilation, true, geometry_.output_padding, geometry_.groups,
      {true, false, false}));
}

template <class Conv>
Tensor TransposedConvBlock<Conv>::gradient(const Tensor& x, const Tensor& g) const {
  return from_torch(std::get<1>(at::convolution_backward(
      laid_out_as(g, x), x, laid_out_as(to_torch(value()), x), c10::nullopt, geometry_.stride,
      geometry_.padding, geometry_.dilation, true, geometry_.output_padding, geometry_.groups,
      {false, true, false})));
}

template <class Conv>
Tensor TransposedConvBlock<Conv>::input_gram(const Tensor& x) const {
  const auto rows = turned(inner().input_gram(stuffed(x)));
  return turned(rows.transpose(1, 2)).transpose(1, 2);
}

template <class Conv>
double TransposedConvBlock<Conv>::input_gram_flops(const Tensor& x) const {
  // Its sizes alone matter.
  return inner().input_gram_flops(x.new_zeros({1}).expand(stuffed_sizes(x)));
}

template class TransposedConvBlock<ConvBlock>;
template class TransposedConvBlock<VolumeConvBlock>;

/// The weight as torch has it.
template <class Conv>
class ConvTranspose<Conv>::Map : public TransposedConvBlock<Conv> {
 public:
  Map(Tensor weight, const Geometry& geometry)
      : TransposedConvBlock<Conv>(std::move(weight), geometry), groups_(geometry.groups) {}

  Tensor to_matrix(const Tensor& weight) const override { return this->from_torch(weight); }
  Tensor from_matrix(const Tensor& matrix) const override { return this->to_torch(matrix); }

 protected:
  std::vector<int64_t> kernel_sizes() const override {
    auto sizes = this->weight_.sizes().vec();
    const auto inputs = sizes[0], outputs = sizes[1];
    sizes[0] = outputs * groups_, sizes[1] = inputs / groups_;
    return sizes;
  }

 private:
  int64_t groups_;
};

template <class Conv>
ConvTranspose<Conv>::ConvTranspose(int64_t inputs, int64_t outputs, const Geometry& geometry,
                                   bool bias) {
  const auto each = outputs / geometry.groups;
  const double bound = 1 / std::sqrt(static_cast<double>(each * geometry.points()));
  const auto w = register_parameter(
      "weight", torch::empty(with_grid({inputs, each}, geometry.kernel)).uniform_(-bound, bound));
  std::unique_ptr<Block> b;
  if (bias) {
    std::vector<int64_t> broadcast(Geometry::kDimension + 2, 1);
    broadcast[1] = outputs;
    b = std::make_unique<BiasBlock>(
        register_parameter("bias", torch::empty({outputs}).uniform_(-bound, bound)), broadcast,
        BiasBlock::Axis::kFirst);
  }
  set_blocks(std::make_unique<Map>(w, geometry), std::move(b));
}

template class ConvTranspose<ConvBlock>;
template class ConvTranspose<VolumeConvBlock>;

}  // namespace evariste
