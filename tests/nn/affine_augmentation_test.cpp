// Copies of images under random affine maps, against a slow sampler that knows each map in closed
// form.
#include "tests/catch.h"

#include <torch/csrc/autograd/autograd.h>

#include <array>
#include <cmath>
#include <numbers>

#include "core/error.h"
#include "nn/affine_augmentation.h"
#include "tests/nn/layer_examples.h"

using namespace evariste;

namespace {

AffineAugmentation augmentation_by(size_t which, double range, int64_t copies = 3) {
  AugmentationOptions options;
  options.copies = copies;
  options.start[which] = range;
  return AffineAugmentation(options);
}

/// The map of (x, y) -> (m[0] x + m[1] y + m[2], m[3] x + m[4] y + m[5]) that xi G_which makes.
std::array<double, 6> map_of(size_t which, double xi) {
  switch (which) {
    case 0:
      return {1, 0, xi, 0, 1, 0};
    case 1:
      return {1, 0, 0, 0, 1, xi};
    case 2:
      return {std::cos(xi), -std::sin(xi), 0, std::sin(xi), std::cos(xi), 0};
    case 3:
      return {std::exp(xi), 0, 0, 0, 1, 0};
    case 4:
      return {1, 0, 0, 0, std::exp(xi), 0};
    default:
      return {std::cosh(xi), std::sinh(xi), 0, std::sinh(xi), std::cosh(xi), 0};
  }
}

/// One pixel of an image [C, H, W] at the fractional place (row, column), zeros outside.
double bilinear(const Tensor& image, int64_t channel, double row, double column) {
  const auto at = [&](double r, double c) {
    if (r < 0 || c < 0 || r >= static_cast<double>(image.size(1)) ||
        c >= static_cast<double>(image.size(2)))
      return 0.0;
    return image[channel][static_cast<int64_t>(r)][static_cast<int64_t>(c)].item<double>();
  };
  const double r = std::floor(row), c = std::floor(column), u = row - r, v = column - c;
  return (1 - u) * ((1 - v) * at(r, c) + v * at(r, c + 1)) +
         u * ((1 - v) * at(r + 1, c) + v * at(r + 1, c + 1));
}

Tensor moved(const Tensor& image, const std::array<double, 6>& m) {
  auto out = torch::empty_like(image);
  const auto half_h = 0.5 * static_cast<double>(image.size(1) - 1);
  const auto half_w = 0.5 * static_cast<double>(image.size(2) - 1);
  for (int64_t k = 0; k < image.size(0); ++k)
    for (int64_t i = 0; i < image.size(1); ++i)
      for (int64_t j = 0; j < image.size(2); ++j) {
        const double y = static_cast<double>(i) / half_h - 1,
                     x = static_cast<double>(j) / half_w - 1;
        out[k][i][j] = bilinear(image, k, (m[3] * x + m[4] * y + m[5] + 1) * half_h,
                                (m[0] * x + m[1] * y + m[2] + 1) * half_w);
      }
  return out;
}

}  // namespace

TEST_CASE("copies of images are those of each generator's map in closed form",
          "[nn][augmentation]") {
  torch::NoGradGuard no_grad;
  const auto x = random_tensor({2, 2, 5, 6}, 3);
  const auto index = torch::tensor({4, 9});
  const Stream stream(7);
  for (size_t which = 0; which < 6; ++which) {
    CAPTURE(AffineAugmentation::kNames[which]);
    const auto augmentation = augmentation_by(which, 0.6);
    const auto copies = augmentation(x, index, stream);
    REQUIRE(copies.sizes() == at::IntArrayRef({2, 3, 2, 5, 6}));
    for (int64_t n = 0; n < 2; ++n) {
      Draws draws(stream.split(static_cast<uint64_t>(index[n].item<int64_t>())));
      for (int64_t k = 0; k < 3; ++k) {
        std::array<double, 6> eps{};
        for (auto& e : eps) e = draws.uniform(-1, 1);
        const auto expected = moved(x[n], map_of(which, 0.6 * eps[which]));
        CHECK((copies[n][k] - expected).abs().max().item<double>() < 1e-12);
      }
    }
  }
}

TEST_CASE("without ranges a copy is the image", "[nn][augmentation]") {
  torch::NoGradGuard no_grad;
  const auto x = random_tensor({3, 1, 7, 7}, 4);
  const auto copies = augmentation_by(0, 0)(x, torch::arange(3), Stream(1));
  CHECK((copies - x.unsqueeze(1)).abs().max().item<double>() < 1e-12);
}

TEST_CASE("a rotation is by pi at most, and by any angle up to it", "[nn][augmentation]") {
  torch::NoGradGuard no_grad;
  const auto x = random_tensor({1, 1, 5, 5}, 5);
  const auto wide = augmentation_by(2, 1000, 20)(x, torch::zeros({1}, torch::kInt64), Stream(2));
  const auto half_turn = torch::rot90(x[0], 2, {1, 2});
  for (int64_t k = 0; k < 20; ++k)  // eps is hardly ever below pi/1000
    CHECK((wide[0][k] - half_turn).abs().max().item<double>() < 1e-9);
}

TEST_CASE("the copies of a sample depend on its index and the stream alone", "[nn][augmentation]") {
  torch::NoGradGuard no_grad;
  AugmentationOptions options;
  options.start = {0.1, 0.2, 0.5, 0.1, 0.2, 0.1};
  const AffineAugmentation augmentation(options);
  const auto x = random_tensor({4, 1, 6, 6}, 6);
  const auto index = torch::tensor({5, 0, 8, 3});
  const auto all = augmentation(x, index, Stream(3));
  const auto rows = torch::tensor({2, 0});
  CHECK((augmentation(x.index_select(0, rows), index.index_select(0, rows), Stream(3)) -
         all.index_select(0, rows))
            .abs()
            .max()
            .item<double>() < 1e-14);
  CHECK_FALSE(torch::allclose(augmentation(x, index, Stream(4)), all));
}

TEST_CASE("ranges have the slope of differences, and only where they are learnt",
          "[nn][augmentation]") {
  AugmentationOptions options;
  options.start = {0.11, 0.23, 0.52, 0.13, 0.21, 0.12};
  const AffineAugmentation augmentation(options);
  const auto x = random_tensor({2, 1, 6, 6}, 6);
  const auto weights = random_tensor({2, 8, 1, 6, 6}, 8);
  const auto value = [&] { return (augmentation(x, torch::arange(2), Stream(3)) * weights).sum(); };
  auto range = augmentation.ranges();
  const auto slope = torch::autograd::grad({value()}, {range})[0];
  for (int64_t i = 0; i < 6; ++i) {
    torch::NoGradGuard no_grad;
    constexpr double h = 1e-6;
    range[i] += h;
    const double above = value().item<double>();
    range[i] -= 2 * h;
    const double below = value().item<double>();
    range[i] += h;
    CHECK(slope[i].item<double>() == Approx((above - below) / (2 * h)).epsilon(1e-6));
  }
  options.learns = {};
  CHECK_FALSE(AffineAugmentation(options).ranges().requires_grad());
  options.copies = 0;
  CHECK_THROWS_WITH(AffineAugmentation(options), Contains("1 or more copies"));
}
