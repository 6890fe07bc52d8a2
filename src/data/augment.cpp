#include <algorithm>

#include "data/expect_images.h"
#include "data/transform.h"

namespace evariste {
namespace {

constexpr int64_t kPad = 4;

struct Augmentation {
  bool flip;
  int64_t down, right;  // the crop's place relative to the image, -4 ... 4
};

Augmentation draw(const Stream& stream) {
  Draws draws(stream);
  const auto shift = [&] { return static_cast<int64_t>(draws.below(2 * kPad + 1)) - kPad; };
  const bool flip = draws.below(2) == 1;
  const int64_t down = shift(), right = shift();
  return {flip, down, right};
}

/// One plane [H, W]: to[i, j] = flipped(from)[i + down, j + right], zero outside. `to` is zero
/// before.
void crop(const float* from, float* to, int64_t H, int64_t W, const Augmentation& a) {
  const int64_t first = std::max<int64_t>(0, -a.right), last = std::min(W, W - a.right);
  for (int64_t i = std::max<int64_t>(0, -a.down); i < std::min(H, H - a.down); ++i) {
    const float* source = from + (i + a.down) * W;
    if (a.flip) {
      for (int64_t j = first; j < last; ++j) to[i * W + j] = source[W - 1 - j - a.right];
    } else if (first < last) {
      std::copy_n(source + first + a.right, last - first, to + i * W + first);
    }
  }
}

}  // namespace

torch::Tensor augmented(const torch::Tensor& x, const torch::Tensor& index, const Stream& stream,
                        AugmentScope scope) {
  expect_images(x, torch::kFloat32, "augmented");
  expect_per_sample(index, x, torch::kInt64, {}, "augmented: index");
  const auto source = x.contiguous(), samples = index.contiguous();
  auto result = torch::zeros(x.sizes(), torch::kFloat32);
  const auto named = stream.split("augmentation");
  const auto H = x.size(2), W = x.size(3), planes = x.size(1);
  for (int64_t n = 0; n < x.size(0); ++n) {
    const auto keyed_by = scope == AugmentScope::Batch ? 0 : n;
    const auto a = draw(named.split(static_cast<uint64_t>(samples.data_ptr<int64_t>()[keyed_by])));
    for (int64_t plane = n * planes; plane < (n + 1) * planes; ++plane) {
      crop(source.data_ptr<float>() + plane * H * W, result.data_ptr<float>() + plane * H * W, H, W,
           a);
    }
  }
  return result;
}

}  // namespace evariste
