#include "nn/affine_augmentation.h"

#include <algorithm>
#include <numbers>

#include "core/error.h"

namespace evariste {
namespace {

constexpr int64_t kRotation = 2;

/// G_i [6, 3, 3] in the order of kNames: d/dxi_i of the map of (x, y, 1) at the identity.
Tensor affine_generators() {
  auto g = torch::zeros({6, 3, 3}, torch::kFloat64);
  g[0][0][2] = 1;
  g[1][1][2] = 1;
  g[2][0][1] = -1, g[2][1][0] = 1;
  g[3][0][0] = 1;
  g[4][1][1] = 1;
  g[5][0][1] = 1, g[5][1][0] = 1;
  return g;
}

/// eps [n, K, 6], float64 on the CPU.
Tensor draws_of(const Tensor& index, int64_t copies, const Stream& stream) {
  const auto samples = index.cpu().contiguous();
  auto out = torch::empty({samples.numel(), copies, 6}, torch::kFloat64);
  auto* value = out.data_ptr<double>();
  for (int64_t i = 0; i < samples.numel(); ++i) {
    Draws draws(stream.split(static_cast<uint64_t>(samples.data_ptr<int64_t>()[i])));
    for (int64_t j = 0; j < copies * 6; ++j) *value++ = draws.uniform(-1, 1);
  }
  return out;
}

/// [n]: centres of pixels, the outer ones at -1 and 1.
Tensor centres(int64_t n, const Tensor& like) {
  return n > 1 ? torch::linspace(-1, 1, n, like.options()) : torch::zeros({1}, like.options());
}

}  // namespace

AffineAugmentation::AffineAugmentation(const AugmentationOptions& options)
    : copies_(options.copies), generators_(affine_generators()) {
  if (copies_ < 1)
    throw UsageError(fmt::format("augmentation: expected 1 or more copies, found {}", copies_));
  ranges_ = torch::tensor(at::ArrayRef<double>(options.start), torch::kFloat64);
  learnt_ = torch::zeros({6}, torch::kFloat64);
  for (int64_t i = 0; i < 6; ++i) learnt_[i] = options.learns[static_cast<size_t>(i)] ? 1.0 : 0.0;
  ranges_.requires_grad_(learnt_.sum().item<double>() > 0);
}

Tensor AffineAugmentation::operator()(const Tensor& x, const Tensor& index,
                                      const Stream& stream) const {
  if (x.dim() != 4)
    throw UsageError(
        fmt::format("augmentation: expected images [N, C, H, W], got {}", shape_text(x.sizes())));
  const auto n = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  const auto xi = ranges_ * draws_of(index, copies_, stream);  // [n, K, 6]
  // One turn is a half turn either way: beyond it the law would wrap around.
  const auto turn = xi.select(2, kRotation).clamp(-std::numbers::pi, std::numbers::pi);
  const auto bounded = torch::cat(
      {xi.narrow(2, 0, kRotation), turn.unsqueeze(2), xi.narrow(2, kRotation + 1, 3)}, 2);
  const auto algebra = bounded.flatten(0, 1).matmul(generators_.flatten(1)).view({-1, 3, 3});
  const auto map = at::linalg_matrix_exp(algebra).to(x.options());  // [n K, 3, 3]
  const auto column = centres(w, x).view({1, 1, w}), row = centres(h, x).view({1, h, 1});
  // By separate products: batched ones of [H W, 3] and [3, 2] made a training 1.4 times as long.
  const auto coordinate = [&](int64_t i) {
    const auto at = [&](int64_t j) { return map.select(1, i).select(1, j).view({-1, 1, 1}); };
    return at(0) * column + (at(1) * row + at(2));
  };
  const auto grid = torch::stack({coordinate(0), coordinate(1)}, 3);  // [n K, H, W, 2]
  // The copies of a sample as one tall image, so that the sample is not copied.
  const auto tall = at::grid_sampler(x, grid.view({n, copies_ * h, w, 2}), /*bilinear*/ 0,
                                     /*zeros*/ 0, /*align_corners=*/true);
  return tall.view({n, c, copies_, h, w}).transpose(1, 2).contiguous();
}

View AffineAugmentation::view(const Stream& stream) const {
  return [this, stream](const Tensor& x, const Tensor& index) { return (*this)(x, index, stream); };
}

}  // namespace evariste
