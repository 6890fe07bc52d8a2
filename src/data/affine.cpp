#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>
#include <torch/nn/functional.h>

#include <cmath>
#include <numbers>

#include "core/error.h"
#include "data/expect_images.h"
#include "data/transform.h"

namespace evariste {
namespace {

constexpr int64_t kChunk = 2000;                // images whose sampling grid is held at once
constexpr double kMaxTranslation = 8.0 / 14.0;  // of half the image

/// [n] float32: centres of n pixels in [-1, 1], whose ends are the outer pixel centres
/// (align_corners) or the outer pixel edges.
torch::Tensor pixel_centres(int64_t n, bool align_corners) {
  const auto i = torch::arange(n, torch::kFloat32);
  if (align_corners) return n > 1 ? i * (2.0 / static_cast<double>(n - 1)) - 1 : i;
  return (2 * i + 1) / static_cast<double>(n) - 1;
}

/// Output (col, row) takes the value at (a col - b row + e, b col + a row + f) of the input.
///   x [N, C, H, W] uint8; a, b, e, f [N] float32
/// The grid is made of separate products and sums, each rounded once: unlike a batched matrix
/// product it gives the same bits for every batch size.
torch::Tensor sample_affine(const torch::Tensor& x, const torch::Tensor& a, const torch::Tensor& b,
                            const torch::Tensor& e, const torch::Tensor& f, bool align_corners) {
  namespace F = torch::nn::functional;
  const auto options = F::GridSampleFuncOptions()
                           .mode(torch::kBilinear)
                           .padding_mode(torch::kZeros)
                           .align_corners(align_corners);
  auto result = torch::empty_like(x);
  if (x.numel() == 0) return result;
  const auto col = pixel_centres(x.size(3), align_corners).view({1, 1, -1});
  const auto row = pixel_centres(x.size(2), align_corners).view({1, -1, 1});
  for (int64_t start = 0; start < x.size(0); start += kChunk) {
    const auto n = std::min(kChunk, x.size(0) - start);
    const auto part = [&](const torch::Tensor& t) { return t.narrow(0, start, n).view({n, 1, 1}); };
    const auto grid = torch::stack(
        {part(a) * col - part(b) * row + part(e), part(b) * col + part(a) * row + part(f)},
        -1);  // [n, H, W, 2]
    const auto images = x.narrow(0, start, n).to(torch::kFloat32);
    // Rounding may carry the weighted mean of four pixels past 255, which would wrap around.
    result.narrow(0, start, n).copy_(F::grid_sample(images, grid, options).clamp_(0, 255));
  }
  return result;
}

/// The generator of the published rotated and translated sets.
at::Generator reference_generator(Split split) {
  return at::make_generator<at::CPUGeneratorImpl>(split == Split::Train ? 1 : 0);
}

/// [N, K] float32 in [-1, 1), column by column where the published code draws them.
torch::Tensor symmetric_uniform(const Dataset& dataset, int64_t k, const Stream& stream,
                                DrawScheme scheme, const char* what) {
  const auto n = dataset.size();
  if (scheme == DrawScheme::Reference) {
    expect_official_order(dataset, what);
    auto generator = reference_generator(dataset.split);
    std::vector<torch::Tensor> columns;
    for (int64_t j = 0; j < k; ++j)
      columns.push_back(2 * torch::rand({n}, generator, torch::kFloat32) - 1);
    return torch::stack(columns, 1);
  }
  auto values = torch::empty({n, k}, torch::kFloat32);
  auto* v = values.data_ptr<float>();
  const auto index = sample_index(dataset).contiguous();
  for (int64_t i = 0; i < n; ++i) {
    Draws draws(stream.split(static_cast<uint64_t>(index.data_ptr<int64_t>()[i])));
    for (int64_t j = 0; j < k; ++j) v[i * k + j] = static_cast<float>(draws.uniform(-1, 1));
  }
  return values;
}

/// [N] float32, radians, uniform on +-max_degrees.
torch::Tensor random_angles(const Dataset& dataset, double max_degrees, const Stream& stream,
                            DrawScheme scheme) {
  const auto turns =
      symmetric_uniform(dataset, 1, stream.split("rotation"), scheme, "rotated").squeeze(1);
  return (turns * max_degrees * (std::numbers::pi / 180)).contiguous();
}

}  // namespace

torch::Tensor rotate(const torch::Tensor& x, const torch::Tensor& angles_radians) {
  expect_images(x, torch::kUInt8, "rotate");
  expect_per_sample(angles_radians, x, torch::kFloat32, {}, "rotate: angles");
  // In float64, then rounded: torch's float32 cosine depends on the place in the tensor.
  const auto angles = angles_radians.to(torch::kFloat64);
  auto c = torch::empty_like(angles_radians), s = torch::empty_like(angles_radians);
  for (int64_t i = 0; i < x.size(0); ++i) {
    const double angle = angles.data_ptr<double>()[i];
    c.data_ptr<float>()[i] = static_cast<float>(std::cos(angle));
    s.data_ptr<float>()[i] = static_cast<float>(std::sin(angle));
  }
  const auto zero = torch::zeros_like(c);
  return sample_affine(x, c, s, zero, zero, /*align_corners=*/false);
}

Dataset rotated(const Dataset& dataset, double max_degrees, const Stream& stream,
                DrawScheme scheme) {
  auto result = dataset;
  result.name = fmt::format("rotated({}, {})", dataset.name, max_degrees);
  result.x = rotate(dataset.x, random_angles(dataset, max_degrees, stream, scheme));
  return result;
}

Dataset angles_of(const Dataset& dataset, const Stream& stream) {
  const auto angles = random_angles(dataset, 180, stream, DrawScheme::PerSample);
  auto result = dataset;
  result.name = fmt::format("angles({})", dataset.name);
  result.x = rotate(dataset.x, angles);
  result.y = torch::stack({angles.cos(), angles.sin()}, 1);
  result.classes = 2;
  return result;
}

Dataset quarter_turned(const Dataset& dataset, TurnLabel label, const Stream& stream) {
  expect_images(dataset.x, torch::kUInt8, "quarter_turned");
  if (dataset.x.size(2) != dataset.x.size(3))
    throw UsageError(fmt::format("quarter_turned: expected square images, found {} x {}",
                                 dataset.x.size(2), dataset.x.size(3)));
  const auto index = sample_index(dataset).contiguous();
  const auto draws = stream.split("quarter turns");
  auto turns = torch::empty({dataset.size()}, torch::kInt64);
  for (int64_t i = 0; i < dataset.size(); ++i) {
    const auto sample = static_cast<uint64_t>(index.data_ptr<int64_t>()[i]);
    turns.data_ptr<int64_t>()[i] = static_cast<int64_t>(Draws(draws.split(sample)).below(4));
  }
  auto result = dataset;
  result.name = fmt::format("{}({})", label == TurnLabel::Added ? "turn" : "turned", dataset.name);
  result.x = dataset.x.clone();
  for (int64_t k = 1; k < 4; ++k) {
    const auto rows = (turns == k).nonzero().squeeze(1);
    result.x.index_copy_(0, rows, dataset.x.index_select(0, rows).rot90(k, {2, 3}));
  }
  if (label == TurnLabel::Added) {
    result.y = dataset.y + dataset.classes * turns;
    result.classes = 4 * dataset.classes;
  }
  return result;
}

torch::Tensor translate(const torch::Tensor& x, const torch::Tensor& offsets) {
  expect_images(x, torch::kUInt8, "translate");
  expect_per_sample(offsets, x, torch::kFloat32, {2}, "translate: offsets");
  const auto dx = offsets.select(1, 0).contiguous(), dy = offsets.select(1, 1).contiguous();
  return sample_affine(x, torch::ones_like(dx), torch::zeros_like(dx), dx, dy,
                       /*align_corners=*/true);
}

Dataset translated(const Dataset& dataset, const Stream& stream, DrawScheme scheme) {
  const auto offsets =
      symmetric_uniform(dataset, 2, stream.split("translation"), scheme, "translated");
  auto result = dataset;
  result.name = fmt::format("translated({})", dataset.name);
  result.x = translate(dataset.x, offsets * kMaxTranslation);
  return result;
}

torch::Tensor rescale(const torch::Tensor& x, const torch::Tensor& factors) {
  expect_images(x, torch::kUInt8, "rescale");
  expect_per_sample(factors, x, torch::kFloat32, {}, "rescale: factors");
  const auto zero = torch::zeros_like(factors);
  return sample_affine(x, factors, zero, zero, zero, /*align_corners=*/false);
}

Dataset scaled(const Dataset& dataset, double max_log_factor, const Stream& stream) {
  const auto u =
      symmetric_uniform(dataset, 1, stream.split("scale"), DrawScheme::PerSample, "scaled")
          .squeeze(1)
          .contiguous();
  auto factors = torch::empty_like(u);  // in float64, one by one, as rotate does
  for (int64_t i = 0; i < u.numel(); ++i)
    factors.data_ptr<float>()[i] =
        static_cast<float>(std::exp(max_log_factor * static_cast<double>(u.data_ptr<float>()[i])));
  auto result = dataset;
  result.name = fmt::format("scaled({}, {})", dataset.name, max_log_factor);
  result.x = rescale(dataset.x, factors);
  return result;
}

}  // namespace evariste
