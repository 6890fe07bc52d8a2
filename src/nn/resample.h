// Layers without weights that resample or weight images [n, C, H, W] and volumes [n, C, D, H, W],
// every channel by itself and all directions alike: quarter turns and flips of the grid commute
// with them, whatever the channels transform by.
#pragma once

#include <optional>

#include "nn/pointwise.h"

namespace evariste {

/// Mean over a Gaussian window at every stride-th position: a subsampling that takes what is finer
/// than the new grid out before (Zhang 2019, arXiv 1904.11486; in steerable networks Weiler & Cesa
/// 2019),
///
///     y[p] = sum_d w[d] x[stride p + d],   w[d] ~ exp(-|d|^2 / (2 sigma^2)),   sum_d w[d] = 1,
///
/// with |d_i| <= round(3 sigma), zeros beyond the edges. w is a product over axes, so that size()
/// terms for each axis make y. Sides become (side + 2 padding - size) / stride + 1; turned by 90
/// degrees the input gives the turned output where that division leaves nothing over.
class BlurPool : public Gather {
 public:
  /// sigma > 0; padding: (size - 1) / 2 unless given.
  BlurPool(double sigma, int64_t stride, std::optional<int64_t> padding = {});

  static int64_t size_of(double sigma);  ///< 2 round(3 sigma) + 1
  int64_t size() const { return static_cast<int64_t>(weights_.size()); }
  int64_t padding() const { return padding_; }
  /// 0 where the window does not fit.
  int64_t output_of(int64_t side) const;

  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;

 protected:
  Tensor transpose(const Tensor& g, const Tape& tape) const override;

 private:
  Tensor along(const Tensor& x, int64_t axis) const;
  Tensor back_along(const Tensor& g, int64_t axis, int64_t side) const;  // the transpose of along

  std::vector<double> weights_;  // of one axis
  int64_t stride_, padding_;
};

/// The image on a grid of other sides over the same area, pixels being squares (align_corners =
/// false of torch). Linear: between the nearest pixels along each axis. Nearest: the pixel at
/// floor(p in / out), which repeats pixels.
class Upsample : public Gather {
 public:
  enum class Mode { kLinear, kNearest };
  /// size: the output's sides, two or three.
  Upsample(std::vector<int64_t> size, Mode mode);

  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;

 protected:
  Tensor transpose(const Tensor& g, const Tape& tape) const override;

 private:
  std::vector<int64_t> size_;
  Mode mode_;
};

/// y = m x with m = 1 inside the disc (ball) that fits into a square (cubic) grid less a margin,
/// and a Gaussian edge around it, so that what a turn moves out of the image is nothing: with c =
/// (S - 1)/2, t = (c (1 - margin/100))^2 and r the squared distance from the centre,
///
///     m = 1 where r <= t, else exp((t - r) / sigma^2)      (the mask of Weiler & Cesa's code).
class DiscMask : public Gather {
 public:
  /// `sides`: of the grid, all equal; margin in per cent of c.
  DiscMask(const std::vector<int64_t>& sides, double margin = 1, double sigma = 2);
  const Tensor& mask() const { return mask_; }  ///< [S, S] or [S, S, S], float64

  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;

 protected:
  Tensor transpose(const Tensor& g, const Tape& tape) const override;

 private:
  Tensor mask_;           // follows from the sides: no buffer
  mutable Tensor known_;  // in the type and on the device of the last inputs
};

}  // namespace evariste
