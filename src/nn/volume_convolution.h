// Convolutions and pools of volumes [n, C, D, H, W]: phi(x) = patches, positions = output voxels.
#pragma once

#include "nn/grid_geometry.h"
#include "nn/linear_map.h"
#include "nn/pointwise.h"

namespace evariste {

using VolumeGeometry = GridGeometry<3>;

/// weight [O, C/groups, kd, kh, kw]; phi [groups, n, T, C/groups kd kh kw], from the padded input.
class VolumeConvBlock : public Block {
 public:
  using Geometry = VolumeGeometry;
  VolumeConvBlock(Tensor weight, VolumeGeometry geometry);

  Tensor to_matrix(const Tensor& weight) const override;
  Tensor phi(const Tensor& x) const override;
  Tensor to_positions(const Tensor& y) const override;
  Tensor from_positions(const Tensor& y, const Tensor& x) const override;
  Tensor apply(const Tensor& matrix, const Tensor& x) const override;
  Tensor backward_data(const Tensor& g, const Tensor& x) const override;
  Tensor gradient(const Tensor& x, const Tensor& g) const override;
  /// From the patches of few samples at a time.
  Tensor input_gram(const Tensor& x) const override;
  double input_gram_flops(const Tensor& x) const override;

 private:
  Tensor pad(const Tensor& x) const;            // circular padding, or x
  Tensor crop(const Tensor& g) const;           // the transpose of pad
  VolumeGeometry::Sizes inner_padding() const;  // what the convolution still pads

  VolumeGeometry geometry_;
};

/// torch.nn.Conv3d with zeros or circular padding; x [n, C, D, H, W]. torch's default
/// initialisation.
class Conv3d : public LinearMap {
 public:
  Conv3d(int64_t inputs, int64_t outputs, const VolumeGeometry& geometry, bool bias = true);
};

/// Mean over windows of [n, C, D, H, W], zeros of the padding counted.
class AvgPool3d : public Gather {
 public:
  AvgPool3d(VolumeGeometry::Sizes kernel, VolumeGeometry::Sizes stride,
            VolumeGeometry::Sizes padding);
  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;

 protected:
  Tensor transpose(const Tensor& g, const Tape& tape) const override;

 private:
  VolumeGeometry::Sizes kernel_, stride_, padding_;
};

}  // namespace evariste
