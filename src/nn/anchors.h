// Filters and maps on a pixel grid given by their values at a few anchor points (van der Ouderaa et
// al. 2023, sec. 4.1): w(t) = sum_j u_j Psi[j, t],
//
//   Psi = (K_ZZ + nu^2 I)^-1 K_ZT,   kappa(a, b) = (1 + 1e-6) exp(-omega^2 |a - b|^2 / 2)
//
// for anchors Z and grid points T in units of pixels, nu = 0.01. omega, one over the length over
// which a filter varies, may be learnt by the evidence: Psi is differentiable in its logarithm.
#pragma once

#include "nn/combine.h"
#include "nn/expanded_convolution.h"

namespace evariste {

/// Interpolation from J anchors to a grid of height x width points.
class AnchorBasis {
 public:
  /// anchors [J, 2] as (y, x) from the grid's centre; log_omega [].
  AnchorBasis(int64_t height, int64_t width, Tensor anchors, Tensor log_omega);

  /// Anchors on the grid where `ratio` is 1, else round(ratio height width), at least one, uniform
  /// over the grid and the same for each grid and number.
  static Tensor anchors(int64_t height, int64_t width, double ratio);

  /// Psi [J, height width] in the type of `like`, with a graph where log_omega wants a gradient.
  Tensor operator()(const Tensor& like) const;
  int64_t count() const { return anchors_.size(0); }
  int64_t points() const { return height_ * width_; }
  /// log_omega, where it is to be learnt.
  std::vector<Tensor> hyperparameters() const;
  /// |Psi|_F^2: the sum over the grid of the variance of w, for u_j of variance one.
  double power() const;

 private:
  Tensor interpolation() const;

  int64_t height_, width_;
  Tensor anchors_, log_omega_;
  mutable Tensor known_;  // Psi without a graph, of the log_omega and anchors below
  mutable Tensor of_omega_, of_anchors_;
};

/// How anchors are chosen, the same for all layers that have them.
struct AnchorOptions {
  double ratio = 0.5;   ///< anchors per grid point, 0 < ratio <= 1
  double omega = 1;     ///< at the start
  bool learns = false;  ///< omega is a hyper-parameter of the evidence
};

/// A convolution at stride 1 whose filters have anchors: weight u [D, C, J], bias [D], buffer
/// anchors [J, 2], and log_omega, a parameter where it is learnt, else a buffer. The prior is one
/// over u.
class SparseConv2d : public LinearMap {
 public:
  SparseConv2d(int64_t inputs, int64_t outputs, const ConvGeometry& geometry,
               const AnchorOptions& anchors, bool bias = true);
  void before_polyphase(int64_t stride) override { weight_block().phase_stride = stride; }
};

/// Between pixels and anchors, channel by channel: [n, C, H, W] -> [n, C, J, 1] by x Psi^T, or
/// [n, C, J, 1] -> [n, C, H, W] by v Psi.
class AnchorMap : public Layer {
 public:
  enum class To { kAnchors, kPixels };
  AnchorMap(To to, int64_t height, int64_t width, const AnchorOptions& anchors);
  const AnchorBasis& basis() const { return *basis_; }

  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                  bool needs_input) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;
  bool bends() const override { return !basis_->hyperparameters().empty(); }
  std::vector<Tensor> hyperparameters() const override { return basis_->hyperparameters(); }
  bool flattens_images() const override { return true; }

 private:
  Tensor map(const Tensor& x) const;  // [m, C, ., .]
  Tensor transposed(const Tensor& g) const;

  To to_;
  int64_t height_, width_;
  std::unique_ptr<AnchorBasis> basis_;
};

/// A factored map (factored.h) whose two factors have anchors over the pixels: the layers "0" from
/// pixels to anchors, "1" factored without bias_V, "2" from anchors to pixels.
class SparseFullyConnected : public Sequential {
 public:
  SparseFullyConnected(const std::vector<int64_t>& input, const std::vector<int64_t>& output,
                       const AnchorOptions& anchors, bool bias = true);
};

}  // namespace evariste
