#include "nn/convolution.h"

#include "laplace/cuda/bind.h"
#include "nn/autocorrelation.h"

namespace evariste {
namespace {

Tensor channels_last(const Tensor& x) { return x.contiguous(at::MemoryFormat::ChannelsLast); }

/// One layout for all that a convolution takes, that of its input x: it returns the same then, and
/// converts nothing.
Tensor laid_out_as(const Tensor& given, const Tensor& x) {
  return given.contiguous(x.suggest_memory_format());
}

}  // namespace

ConvBlock::ConvBlock(Tensor weight, ConvGeometry geometry)
    : Block(std::move(weight)), geometry_(geometry) {}

Tensor ConvBlock::to_matrix(const Tensor& weight) const {
  return weight.reshape({geometry_.groups, weight.size(0) / geometry_.groups, -1});
}

std::vector<int64_t> ConvBlock::kernel_shape() const {
  // A 1-d weight [O, C, k] acts with height 1.
  return {weight_.size(0), weight_.size(1), geometry_.kernel[0], geometry_.kernel[1]};
}

std::vector<int64_t> ConvBlock::inner_padding() const {
  return geometry_.circular
             ? std::vector<int64_t>{0, 0}
             : std::vector<int64_t>(geometry_.padding.begin(), geometry_.padding.end());
}

Tensor ConvBlock::pad(const Tensor& x) const {
  const auto [py, px] = geometry_.padding;
  if (!geometry_.circular || (py == 0 && px == 0)) return x;
  return at::pad(x, {px, px, py, py}, "circular");
}

Tensor ConvBlock::pad_fully(const Tensor& x) const {
  const auto padded = pad(x);
  const auto inner = inner_padding();
  if (inner[0] == 0 && inner[1] == 0) return channels_last(padded);
  return channels_last(
      at::constant_pad_nd(channels_last(padded), {inner[1], inner[1], inner[0], inner[0]}));
}

Tensor ConvBlock::crop(const Tensor& g) const {
  const auto [py, px] = geometry_.padding;
  if (!geometry_.circular || (py == 0 && px == 0)) return g;
  const auto h = g.size(2) - 2 * py, w = g.size(3) - 2 * px;
  auto rows = g.narrow(2, py, h).clone();
  if (py > 0) {  // a padded row is a copy: its cotangent goes where it came from
    rows.narrow(2, h - py, py) += g.narrow(2, 0, py);
    rows.narrow(2, 0, py) += g.narrow(2, h + py, py);
  }
  auto out = rows.narrow(3, px, w).clone();
  if (px > 0) {
    out.narrow(3, w - px, px) += rows.narrow(3, 0, px);
    out.narrow(3, 0, px) += rows.narrow(3, w + px, px);
  }
  return out;
}

Tensor ConvBlock::phi(const Tensor& x) const {
  const auto& k = geometry_.kernel;
  const auto patches = at::im2col(pad(x), k, geometry_.dilation, inner_padding(), geometry_.stride);
  // [n, C kh kw, T] -> [G, n, T, J]
  return patches.view({x.size(0), geometry_.groups, -1, patches.size(2)}).permute({1, 0, 3, 2});
}

Tensor ConvBlock::gathered(const Tensor& x) const {
  const auto padded = pad_fully(x);
  const auto n = padded.size(0), channels = padded.size(1), width = padded.size(3);
  const auto groups = geometry_.groups, c = channels / groups;
  const auto [kh, kw] = geometry_.kernel;
  const auto [sy, sx] = geometry_.stride;
  const auto [dy, dx] = geometry_.dilation;
  const auto [h, w] = geometry_.output_size(x.size(2), x.size(3));
  const auto line = width * channels;
  return padded
      .as_strided({groups, n, h, w, kh, kw, c},
                  {c, padded.size(2) * line, sy * line, sx * channels, dy * line, dx * channels, 1})
      .contiguous()
      .view({groups, n, h * w, kh * kw * c});
}

Tensor ConvBlock::gathered_order() const {
  const auto c = weight_.size(1), positions = geometry_.kernel[0] * geometry_.kernel[1];
  const auto on = torch::dtype(torch::kInt64).device(weight_.device());
  return torch::arange(c * positions, on).view({c, positions}).t().flatten();
}

Tensor ConvBlock::scattered(const Tensor& g, const Tensor& x) const {
  const auto [kh, kw] = geometry_.kernel;
  const auto [sy, sx] = geometry_.stride;
  const auto [dy, dx] = geometry_.dilation;
  const auto [py, px] = geometry_.padding;
  const auto [h, w] = geometry_.output_size(x.size(2), x.size(3));
  const auto n = x.size(0), groups = geometry_.groups, c = x.size(1) / groups;
  const auto each = g.reshape({groups, n, h, w, kh, kw, c}).permute({4, 5, 1, 2, 3, 0, 6});
  auto padded = torch::zeros({n, x.size(2) + 2 * py, x.size(3) + 2 * px, groups, c}, x.options());
  for (int64_t i = 0; i < kh; ++i)
    for (int64_t j = 0; j < kw; ++j)
      padded.slice(1, i * dy, i * dy + (h - 1) * sy + 1, sy)
          .slice(2, j * dx, j * dx + (w - 1) * sx + 1, sx)
          .add_(each[i][j]);
  const auto image = padded.flatten(3).permute({0, 3, 1, 2});
  if (geometry_.circular) return crop(image);
  return image.narrow(2, py, x.size(2)).narrow(3, px, x.size(3));
}

Tensor ConvBlock::to_positions(const Tensor& y) const {
  return y.reshape({y.size(0), geometry_.groups, weight_.size(0) / geometry_.groups, -1})
      .permute({1, 0, 3, 2});
}

Tensor ConvBlock::from_positions(const Tensor& y, const Tensor& x) const {
  const auto [h, w] = geometry_.output_size(x.size(2), x.size(3));
  return y.permute({1, 0, 3, 2}).reshape({y.size(1), weight_.size(0), h, w});
}

Tensor ConvBlock::apply(const Tensor& matrix, const Tensor& x) const {
  return at::convolution(laid_out_as(pad(x), x), laid_out_as(matrix.reshape(kernel_shape()), x), {},
                         geometry_.stride, inner_padding(), geometry_.dilation, false, {0, 0},
                         geometry_.groups);
}

Tensor ConvBlock::backward_data(const Tensor& g, const Tensor& x) const {
  auto shape = x.sizes().vec();
  shape[0] = g.size(0);
  const auto padding = geometry_.circular ? geometry_.padding : std::array<int64_t, 2>{0, 0};
  shape[2] += 2 * padding[0];
  shape[3] += 2 * padding[1];
  // Only the input's shape and layout matter here; the values are never read.
  const auto like = torch::empty(shape, x.options().memory_format(x.suggest_memory_format()));
  const auto gradients = at::convolution_backward(
      laid_out_as(g, x), like, laid_out_as(weight_.reshape(kernel_shape()), x), c10::nullopt,
      geometry_.stride, inner_padding(), geometry_.dilation, false, {0, 0}, geometry_.groups,
      {true, false, false});
  return crop(std::get<0>(gradients));
}

Tensor ConvBlock::gradient(const Tensor& x, const Tensor& g) const {
  const auto gradients = at::convolution_backward(
      laid_out_as(g, x), laid_out_as(pad(x), x), laid_out_as(weight_.reshape(kernel_shape()), x),
      c10::nullopt, geometry_.stride, inner_padding(), geometry_.dilation, false, {0, 0},
      geometry_.groups, {false, true, false});
  return to_matrix(std::get<1>(gradients));
}

namespace {

/// As the kernels for a GPU take it, of inputs that are padded but for `padding`.
cuda::Convolution kernel_geometry(const ConvGeometry& g, const std::vector<int64_t>& padding) {
  return {{g.kernel[0], g.kernel[1]},
          {g.stride[0], g.stride[1]},
          {padding[0], padding[1]},
          {g.dilation[0], g.dilation[1]},
          g.groups};
}

}  // namespace

Tensor ConvBlock::input_gram(const Tensor& x) const {
  if (!cuda::takes(x)) return patch_gram(pad_fully(x), geometry_);
  return cuda::conv_gram(pad(x), kernel_geometry(geometry_, inner_padding()));
}

std::function<Tensor(const Tensor&)> ConvBlock::squared_gradients_of(const Tensor& x) const {
  if (!cuda::takes(x)) return nullptr;
  return [this, padded = pad(x)](const Tensor& g) {
    const auto flat = to_positions(g.flatten(0, 1));  // [G, R n, T, O/G]
    const auto each =
        flat.reshape({flat.size(0), g.size(0), g.size(1), flat.size(2), flat.size(3)});
    return cuda::conv_squared_gradients(each, padded, kernel_geometry(geometry_, inner_padding()));
  };
}

bool ConvBlock::has_short_backward(const Tensor& x) const {
  const auto& g = geometry_;
  double short_cost = 1, patches = 1;
  for (size_t i = 0; i < 2; ++i) {
    const auto k = g.kernel[i], size = x.size(static_cast<int64_t>(i) + 2);
    if (g.stride[i] != 1 || g.dilation[i] != 1 || size < k) return false;
    if (g.circular && 2 * g.padding[i] != k - 1) return false;  // the ends would not meet
    if (g.circular && k - 1 > size) return false;
    short_cost *= static_cast<double>((2 * k - 1) * size);
    patches *= static_cast<double>(k * k * g.output_size(x.size(2), x.size(3))[i]);
  }
  return short_cost < 0.75 * patches;  // the rest for the edges
}

std::function<Tensor(const Tensor&)> ConvBlock::input_gram_backward(const Tensor& matrix,
                                                                    const Tensor& like) const {
  if (!has_short_backward(like)) return Block::input_gram_backward(matrix, like);
  const auto [kh, kw] = geometry_.kernel;
  const auto groups = geometry_.groups, c = like.size(1) / groups;
  // On pixel p: sum over kernel entries d, d' of matrix[d, d'] x[p + d' - d].
  const auto entries = matrix.view({groups, c, kh, kw, c, kh, kw});
  auto kernel = torch::zeros({groups, c, c, 2 * kh - 1, 2 * kw - 1}, matrix.options());
  for (int64_t i = 0; i < kh; ++i)
    for (int64_t j = 0; j < kw; ++j)
      kernel.narrow(3, kh - 1 - i, kh)
          .narrow(4, kw - 1 - j, kw)
          .add_(entries.select(2, i).select(2, j), 2);
  kernel = laid_out_as(kernel.flatten(0, 1), like);
  const std::vector<int64_t> around = {kh - 1, kw - 1};
  const auto convolve = [kernel, groups](const Tensor& image, const std::vector<int64_t>& padding) {
    return at::convolution(image, laid_out_as(kernel, image), {}, {1, 1}, padding, {1, 1}, false,
                           {0, 0}, groups);
  };
  if (geometry_.circular)
    return [convolve, around](const Tensor& x) {
      const auto padded = at::pad(x, {around[1], around[1], around[0], around[0]}, "circular");
      return convolve(laid_out_as(padded, x), {0, 0});
    };
  // Less the positions q rows above and below those that there are, then as many columns beside:
  // of each the kernel sees `count` rows (columns) at the edge, by its last or its first entries.
  struct Edge {
    int64_t dimension, begin, count;
    std::shared_ptr<ConvBlock> block;
    std::function<Tensor(const Tensor&)> backward;
  };
  std::vector<Edge> edges;
  for (int64_t axis = 0; axis < 2; ++axis) {
    const auto a = static_cast<size_t>(axis);
    const auto k = geometry_.kernel[a], size = like.size(2 + axis);
    for (int64_t q = 1; q < k - geometry_.padding[a]; ++q) {
      const auto count = k - q - geometry_.padding[a];
      for (const bool is_end : {false, true}) {
        const auto entry = is_end ? 0 : k - count;
        Edge edge{2 + axis, is_end ? size - count : 0, count, {}, {}};
        auto geometry = geometry_;
        geometry.kernel[a] = count;
        geometry.padding[a] = 0;
        if (axis == 0) geometry.padding[1] = kw - 1;  // the corners, too
        const auto rows = count * geometry_.kernel[1 - a] * c;
        edge.block = std::make_shared<ConvBlock>(
            torch::empty({groups, c, geometry.kernel[0], geometry.kernel[1]}), geometry);
        edge.backward =
            edge.block->Block::input_gram_backward(entries.narrow(2 + axis, entry, count)
                                                       .narrow(5 + axis, entry, count)
                                                       .reshape({groups, rows, rows}),
                                                   like.narrow(edge.dimension, edge.begin, count));
        edges.push_back(std::move(edge));
      }
    }
  }
  return [convolve, around, edges](const Tensor& x) {
    auto out = convolve(x, around);
    for (const auto& edge : edges)
      out.narrow(edge.dimension, edge.begin, edge.count) -=
          edge.backward(x.narrow(edge.dimension, edge.begin, edge.count));
    return out;
  };
}

double ConvBlock::input_gram_flops(const Tensor& x) const {
  const auto [h, w] = geometry_.output_size(x.size(2), x.size(3));
  return patch_gram_flops(x.size(0) * h * w, x.size(1), geometry_);
}

Conv2d::Conv2d(int64_t inputs, int64_t outputs, const ConvGeometry& geometry, bool bias) {
  const auto fan_in = inputs / geometry.groups * geometry.kernel[0] * geometry.kernel[1];
  const double bound = 1 / std::sqrt(static_cast<double>(fan_in));
  const auto w = register_parameter("weight", torch::empty({outputs, inputs / geometry.groups,
                                                            geometry.kernel[0], geometry.kernel[1]})
                                                  .uniform_(-bound, bound));
  std::unique_ptr<Block> b;
  if (bias)
    b = std::make_unique<BiasBlock>(
        register_parameter("bias", torch::empty({outputs}).uniform_(-bound, bound)),
        std::vector<int64_t>{1, outputs, 1, 1}, BiasBlock::Axis::kFirst);
  set_blocks(std::make_unique<ConvBlock>(w, geometry), std::move(b));
}

/// The same map on [n, C, 1, L]; the parameters are registered by the outer layer.
class Conv1d::Map : public LinearMap {
 public:
  Map(std::unique_ptr<Block> weight, std::unique_ptr<Block> bias) {
    set_blocks(std::move(weight), std::move(bias));
  }
};

Conv1d::Conv1d(int64_t inputs, int64_t outputs, const ConvGeometry& geometry, bool bias) {
  const auto fan_in = inputs / geometry.groups * geometry.kernel[1];
  const double bound = 1 / std::sqrt(static_cast<double>(fan_in));
  const auto w = register_parameter(
      "weight", torch::empty({outputs, inputs / geometry.groups, geometry.kernel[1]})
                    .uniform_(-bound, bound));
  std::unique_ptr<Block> b;
  if (bias)
    b = std::make_unique<BiasBlock>(
        register_parameter("bias", torch::empty({outputs}).uniform_(-bound, bound)),
        std::vector<int64_t>{1, outputs, 1, 1}, BiasBlock::Axis::kFirst);
  map_ = std::make_unique<Map>(std::make_unique<ConvBlock>(w, geometry), std::move(b));
}

Conv1d::~Conv1d() = default;

Tensor Conv1d::forward(const Tensor& x, Tape* tape) const {
  return map_->forward(x.unsqueeze(2), tape).squeeze(2);
}

Tensor Conv1d::backward(const Tensor& g, const Tape& tape, const Sink& sink,
                        bool needs_input) const {
  const auto dx = map_->backward(g.unsqueeze(3), tape, sink, needs_input);
  return needs_input ? dx.squeeze(3) : dx;
}

Tensor Conv1d::jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const {
  const auto dy = map_->jvp(dx.defined() ? dx.unsqueeze(3) : dx, tape, tangents);
  return dy.defined() ? dy.squeeze(3) : dy;
}

void Conv1d::visit_blocks(const std::function<void(Block&)>& visit) { map_->visit_blocks(visit); }

}  // namespace evariste
