#include "nn/anchors.h"

#include <cmath>

#include "core/stream.h"
#include "laplace/cuda/recording.h"
#include "nn/factored.h"

namespace evariste {
namespace {

constexpr double kNoise = 0.01;

/// Squared distances in pixels, [a, b].
Tensor squared_distances(const Tensor& a, const Tensor& b) {
  return (a.unsqueeze(1) - b.unsqueeze(0)).square().sum(2);
}

/// Centred points (y, x) of a grid, row by row, [height width, 2] float64.
Tensor grid_points(int64_t height, int64_t width) {
  const auto along = [](int64_t n) {
    const auto half = 0.5 * static_cast<double>(n - 1);
    return torch::linspace(-half, half, n, torch::kFloat64);
  };
  const auto y = along(height).unsqueeze(1).expand({height, width});
  const auto x = along(width).unsqueeze(0).expand({height, width});
  return torch::stack({y.flatten(), x.flatten()}, 1);
}

/// log_omega of a layer, a parameter where it is learnt.
Tensor registered_omega(torch::nn::Module& layer, const AnchorOptions& options) {
  const auto value = torch::full({}, std::log(options.omega));
  return options.learns ? layer.register_parameter("log_omega", value)
                        : layer.register_buffer("log_omega", value);
}

/// As the weights beside them are, until the network is converted.
Tensor float_anchors(int64_t height, int64_t width, const AnchorOptions& options) {
  return AnchorBasis::anchors(height, width, options.ratio).to(torch::kFloat32);
}

class SparseConvBlock : public ExpandedConvBlock {
 public:
  SparseConvBlock(const Tensor& u, const ConvGeometry& geometry, AnchorBasis basis)
      : ExpandedConvBlock(u, geometry), shape_(u.sizes().vec()), basis_(std::move(basis)) {
    feature_power = basis_.power() / static_cast<double>(basis_.count());
  }

  std::vector<Tensor> hyperparameters() const override { return basis_.hyperparameters(); }
  Tensor from_matrix(const Tensor& matrix) const override { return matrix.reshape(shape_); }
  Tensor to_positions(const Tensor& y) const override {
    return y.reshape({1, y.size(0), shape_[0], -1}).transpose(2, 3);
  }
  Tensor from_positions(const Tensor& y, const Tensor& x) const override {
    const auto [h, w] = geometry_.output_size(x.size(2), x.size(3));
    return y[0].transpose(1, 2).reshape({y.size(1), shape_[0], h, w});
  }

 protected:
  std::vector<int64_t> kernel_sizes() const override {
    return {shape_[0], shape_[1], geometry_.kernel[0], geometry_.kernel[1]};
  }
  Tensor kernel(const Tensor& matrix) const override {
    return matrix.reshape(shape_).matmul(basis_(matrix)).view(kernel_sizes());
  }
  Tensor pull_back(const Tensor& kernel) const override {
    return to_matrix(kernel.flatten(2).matmul(basis_(kernel).t()));
  }
  Tensor features(const Tensor& patches) const override {
    return patches.unflatten(3, {shape_[1], -1}).matmul(basis_(patches).t()).flatten(3);
  }
  Tensor feature_gram(const Tensor& gram) const override {
    const auto psi = basis_(gram).t();
    const auto on_rows = [&](const Tensor& rows) {  // [1, ., C k^2] -> [1, ., C J]
      return rows.unflatten(2, {shape_[1], -1}).matmul(psi).flatten(2);
    };
    return on_rows(on_rows(gram).transpose(1, 2));
  }

 private:
  std::vector<int64_t> shape_;  // of u
  AnchorBasis basis_;
};

}  // namespace

AnchorBasis::AnchorBasis(int64_t height, int64_t width, Tensor anchors, Tensor log_omega)
    : height_(height),
      width_(width),
      anchors_(std::move(anchors)),
      log_omega_(std::move(log_omega)) {}

Tensor AnchorBasis::anchors(int64_t height, int64_t width, double ratio) {
  const auto points = height * width;
  // To the nearest, and to the even one of two.
  const auto count = std::max<int64_t>(1, std::lrint(ratio * static_cast<double>(points)));
  if (count == points) return grid_points(height, width);
  Draws draws(Stream(static_cast<uint64_t>(height))
                  .split(static_cast<uint64_t>(width))
                  .split(static_cast<uint64_t>(count)));
  auto out = torch::empty({count, 2}, torch::kFloat64);
  auto at = out.accessor<double, 2>();
  for (int64_t j = 0; j < count; ++j) {
    at[j][0] = (draws.uniform() - 0.5) * static_cast<double>(height - 1);
    at[j][1] = (draws.uniform() - 0.5) * static_cast<double>(width - 1);
  }
  return out;
}

std::vector<Tensor> AnchorBasis::hyperparameters() const {
  return log_omega_.requires_grad() ? std::vector<Tensor>{log_omega_} : std::vector<Tensor>();
}

Tensor AnchorBasis::interpolation() const {
  const auto z = anchors_.to(torch::kFloat64);
  const auto t = grid_points(height_, width_).to(z.device());
  const auto square = (2 * log_omega_.to(torch::kFloat64)).exp();
  const auto kappa = [&](const Tensor& a, const Tensor& b) {
    return (1 + 1e-6) * (-0.5 * square * squared_distances(a, b)).exp();
  };
  const auto noise = kNoise * kNoise * torch::eye(z.size(0), z.options());
  return at::cholesky_solve(kappa(z, t), at::linalg_cholesky(kappa(z, z) + noise));
}

Tensor AnchorBasis::operator()(const Tensor& like) const {
  if (log_omega_.requires_grad() && torch::GradMode::is_enabled())
    return interpolation().to(like.options());
  torch::NoGradGuard no_grad;
  const auto same = [](const Tensor& a, const Tensor& b) {
    return a.defined() && a.device() == b.device() && torch::equal(a, b);
  };
  const bool is_known = cuda::RecordedSteps::is_recording() ||
                        (same(of_omega_, log_omega_) && same(of_anchors_, anchors_));
  if (!is_known) {
    known_ = interpolation();
    of_omega_ = log_omega_.detach().clone();
    of_anchors_ = anchors_.clone();
  }
  return known_.to(like.options());
}

double AnchorBasis::power() const {
  torch::NoGradGuard no_grad;
  return (*this)(torch::empty({}, torch::kFloat64)).square().sum().item<double>();
}

SparseConv2d::SparseConv2d(int64_t inputs, int64_t outputs, const ConvGeometry& geometry,
                           const AnchorOptions& options, bool bias) {
  const auto [kh, kw] = geometry.kernel;
  AnchorBasis basis(kh, kw, register_buffer("anchors", float_anchors(kh, kw, options)),
                    registered_omega(*this, options));
  const double bound = 1 / std::sqrt(static_cast<double>(inputs) * basis.power());
  const auto u = register_parameter(
      "weight", torch::empty({outputs, inputs, basis.count()}).uniform_(-bound, bound));
  std::unique_ptr<Block> b;
  if (bias)
    b = std::make_unique<BiasBlock>(
        register_parameter("bias", torch::empty({outputs}).uniform_(-bound, bound)),
        std::vector<int64_t>{1, outputs, 1, 1}, BiasBlock::Axis::kFirst);
  set_blocks(std::make_unique<SparseConvBlock>(u, geometry, std::move(basis)), std::move(b));
}

AnchorMap::AnchorMap(To to, int64_t height, int64_t width, const AnchorOptions& options)
    : to_(to), height_(height), width_(width) {
  const auto anchors = register_buffer("anchors", float_anchors(height, width, options));
  basis_ = std::make_unique<AnchorBasis>(height, width, anchors, registered_omega(*this, options));
}

Tensor AnchorMap::map(const Tensor& x) const {
  if (to_ == To::kAnchors) return x.flatten(2).matmul((*basis_)(x).t()).unsqueeze(3);
  return x.flatten(2).matmul((*basis_)(x)).unflatten(2, {height_, width_});
}

Tensor AnchorMap::transposed(const Tensor& g) const {
  if (to_ == To::kAnchors) return g.flatten(2).matmul((*basis_)(g)).unflatten(2, {height_, width_});
  return g.flatten(2).matmul((*basis_)(g).t()).unsqueeze(3);
}

Tensor AnchorMap::forward(const Tensor& x, Tape* tape) const {
  if (tape) tape->x = x;
  return map(x);
}

Tensor AnchorMap::backward(const Tensor& g, const Tape& tape, const Sink& sink,
                           bool needs_input) const {
  if (sink.bend && bends()) sink.bend(*this, tape, g);
  return needs_input ? unfold(transposed(fold(g)), g.size(0)) : Tensor();
}

Tensor AnchorMap::jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const {
  if (!dx.defined()) return dx;
  if (tangents.bend && bends()) tangents.bend(*this, tape, dx);
  return unfold(map(fold(dx)), dx.size(0));
}

SparseFullyConnected::SparseFullyConnected(const std::vector<int64_t>& input,
                                           const std::vector<int64_t>& output,
                                           const AnchorOptions& options, bool bias) {
  const auto from =
      std::make_shared<AnchorMap>(AnchorMap::To::kAnchors, input[1], input[2], options);
  const auto to =
      std::make_shared<AnchorMap>(AnchorMap::To::kPixels, output[1], output[2], options);
  const auto factored = std::make_shared<FactoredFullyConnected>(
      std::vector<int64_t>{input[0], from->basis().count(), 1},
      std::vector<int64_t>{output[0], to->basis().count(), 1}, bias, false);
  // Features are those of pixels seen at the anchors; outputs those of anchors seen at pixels.
  const double per_anchor = from->basis().power() / static_cast<double>(from->basis().count());
  const double per_pixel = to->basis().power() / static_cast<double>(to->basis().points());
  factored->set_feature_powers(per_anchor, per_pixel);
  append(from);
  append(factored);
  append(to);
}

}  // namespace evariste
