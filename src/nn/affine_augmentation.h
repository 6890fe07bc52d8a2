// Copies of an image under affine maps drawn around the identity, with ranges that the evidence can
// learn (Immer et al. 2022, LILA, sec. 4; Benton et al. 2020, Augerino):
//
//   x_k = T(eta o eps_k) x,   eps_k ~ U[-1, 1]^6,   T(xi) = expm(sum_i xi_i G_i)
//
// with the six generators of the plane's affine maps, in coordinates where the image is [-1, 1]^2.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "core/stream.h"
#include "laplace/fit.h"

namespace evariste {

struct AugmentationOptions {
  int64_t copies = 8;  ///< K
  /// Ranges at the start, in the order of AffineAugmentation::kNames.
  std::array<double, 6> start = {};
  std::array<bool, 6> learns = {true, true, true, true, true, true};
};

/// The orbit distribution above. Ranges have no sign: T(eta o eps) and T(-eta o eps) have one law.
class AffineAugmentation {
 public:
  /// A translation by 1 is half an image, a rotation by 1 a radian, a scale by s a factor e^s.
  static constexpr std::array<const char*, 6> kNames = {
      "translation_x", "translation_y", "rotation", "scale_x", "scale_y", "shear"};

  explicit AffineAugmentation(const AugmentationOptions& options);

  int64_t copies() const { return copies_; }
  /// eta [6], float64, a leaf; it wants a gradient where some of it is learnt.
  const Tensor& ranges() const { return ranges_; }
  /// [6]: 1 for those that are learnt.
  const Tensor& learnt() const { return learnt_; }

  /// x [n, C, H, W], index [n] int64 -> [n, K, C, H, W], differentiable in the ranges. Bilinear
  /// with align_corners, zeros outside; rotations by at most pi either way. The draws of a sample
  /// depend on the stream and its index alone. Cost: 20 flops per pixel of the copies.
  Tensor operator()(const Tensor& x, const Tensor& index, const Stream& stream) const;
  View view(const Stream& stream) const;

 private:
  int64_t copies_;
  Tensor ranges_, learnt_;
  Tensor generators_;  // [6, 3, 3]
};

}  // namespace evariste
