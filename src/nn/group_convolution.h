// Group convolutions for p4, shifts and rotations by quarter turns (Cohen & Welling 2016, arXiv
// 1602.07576), in the frame of the image.
//
// A feature map has four copies of its C channels, [n, 4 C, H, W], copy k first: F_k answers to a
// pattern turned k times. Turning the image by 90 degrees turns all copies and moves copy k to k+1;
// a shift shifts all of them, so one phase of a polyphase layer serves them all. (Copies in frames
// of their own, each turned back, are as well equivariant to turns, but no longer to shifts once
// they are subsampled or added up.)
#pragma once

#include "nn/convolution.h"
#include "nn/pointwise.h"

namespace evariste {

/// F'_k = b + sum_j (rot90^k psi_{(j-k) mod 4}) * F_j, or with mix = false only the term j = k;
/// weight psi [D, C/groups, 4 or 1, kh, kw], bias [D]. Depthwise ones of the two kinds in turn make
/// the separable variants.
class GroupConv2d : public LinearMap {
 public:
  struct Options {
    int64_t kernel = 3;  ///< odd, both sides
    int64_t padding = 0;
    bool circular = false;
    int64_t groups = 1;  ///< of channels
    bool mix = true;     ///< over copies
    bool bias = true;
  };
  GroupConv2d(int64_t inputs, int64_t outputs, const Options& options);
  void before_polyphase(int64_t stride) override { weight_block().phase_stride = stride; }
};

/// [n, C, H, W] -> [n, 4 C, H, W]: the image is the same in all frames.
class GroupLift : public Gather {
 public:
  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;

 protected:
  Tensor transpose(const Tensor& g, const Tape& tape) const override;
};

/// The largest of the four copies, [n, 4 C, H, W] -> [n, C, H, W]; ties go to the first.
class GroupPool : public Gather {
 public:
  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;

 protected:
  Tensor transpose(const Tensor& g, const Tape& tape) const override;
};

}  // namespace evariste
