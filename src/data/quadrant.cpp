#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>
#include <torch/nn/functional.h>

#include "core/error.h"
#include "data/expect_images.h"
#include "data/transform.h"

namespace evariste {
namespace {

constexpr int64_t kDigit = 28, kHalf = 16;  // a quadrant of the canvas, of the image
constexpr int64_t kQuadrants = 4, kDigits = 10;

/// [N] int64 in 0 ... 3
torch::Tensor draw_quadrants(const Dataset& mnist, const Stream& stream, DrawScheme scheme) {
  if (scheme == DrawScheme::Reference) {
    expect_official_order(mnist, "quadrant_mnist");
    auto generator =
        at::make_generator<at::CPUGeneratorImpl>(mnist.split == Split::Train ? 1001 : 1000);
    return torch::randint(0, kQuadrants, {mnist.size()}, generator, torch::kInt64);
  }
  const auto index = sample_index(mnist).contiguous();
  auto q = torch::empty({mnist.size()}, torch::kInt64);
  for (int64_t i = 0; i < mnist.size(); ++i) {
    const auto sample = static_cast<uint64_t>(index.data_ptr<int64_t>()[i]);
    q.data_ptr<int64_t>()[i] = static_cast<int64_t>(Draws(stream.split(sample)).below(kQuadrants));
  }
  return q;
}

}  // namespace

torch::Tensor place_in_quadrants(const torch::Tensor& x, const torch::Tensor& q) {
  namespace F = torch::nn::functional;
  expect_images(x, torch::kUInt8, "place_in_quadrants");
  expect_per_sample(q, x, torch::kInt64, {}, "place_in_quadrants: quadrants");
  if (x.size(1) != 1 || x.size(2) != kDigit || x.size(3) != kDigit) {
    throw UsageError(
        fmt::format("place_in_quadrants: images must be 1 x {0} x {0}, got {1} x {2} x {3}", kDigit,
                    x.size(1), x.size(2), x.size(3)));
  }
  // Output pixel i of the 56 -> 32 map reads the canvas at 1.75 i + 0.375, and pixel i + 16 reads
  // it exactly 28 further: no output pixel mixes two quadrants, so the digit may be shrunk first
  // (all of it exact in float32) and pasted afterwards.
  const auto shrink = F::InterpolateFuncOptions()
                          .size(std::vector<int64_t>{kHalf, kHalf})
                          .mode(torch::kBilinear)
                          .align_corners(false);
  const auto small =
      F::interpolate(x.to(torch::kFloat32), shrink).round_().to(torch::kUInt8).contiguous();
  auto placed = torch::zeros({x.size(0), 1, 2 * kHalf, 2 * kHalf}, torch::kUInt8);
  const auto* from = small.data_ptr<uint8_t>();
  const auto quadrants = q.contiguous();
  for (int64_t n = 0; n < x.size(0); ++n) {
    const auto k = quadrants.data_ptr<int64_t>()[n];
    if (k < 0 || k >= kQuadrants)
      throw UsageError(
          fmt::format("place_in_quadrants: quadrant {} of sample {} is not in 0 ... 3", k, n));
    auto* to = placed.data_ptr<uint8_t>() + n * 4 * kHalf * kHalf + (k / 2) * 2 * kHalf * kHalf +
               (k % 2) * kHalf;
    for (int64_t row = 0; row < kHalf; ++row)
      std::copy_n(from + (n * kHalf + row) * kHalf, kHalf, to + row * 2 * kHalf);
  }
  return placed;
}

Dataset quadrant_mnist(const Dataset& mnist, QuadrantLabel label, const Stream& stream,
                       DrawScheme scheme) {
  const auto q = draw_quadrants(mnist, stream.split("quadrant"), scheme);
  const bool by_place = label == QuadrantLabel::Quadrant;
  auto result = mnist;
  result.name = fmt::format("{}({})", by_place ? "quadrant" : "digit", mnist.name);
  result.x = normalise(place_in_quadrants(mnist.x, q), mnist.normalisation);
  if (by_place) {
    result.y = mnist.y + kDigits * q;
    result.classes = kDigits * kQuadrants;
  }
  return result;
}

}  // namespace evariste
