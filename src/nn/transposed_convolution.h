// Transposed convolutions of images and volumes: the transpose in x of a convolution, with a weight
// of its own,
//
//     y[n, o, p] = sum_{c, k} W[c, o, k] x[n, c, i],     stride i + dilation k = p + padding.
//
// phi(x) are the patches of x with stride - 1 zeros put between its entries and the kernel turned
// about its middle; positions are output pixels.
#pragma once

#include "nn/convolution.h"
#include "nn/volume_convolution.h"

namespace evariste {

/// What a transposed convolution makes of a grid.
template <size_t D>
struct TransposedGeometry : GridGeometry<D> {
  using typename GridGeometry<D>::Sizes;
  Sizes output_padding = GridGeometry<D>::all(0);  ///< more rows at the end of each axis

  /// (side - 1) stride - 2 padding + dilation (kernel - 1) + output_padding + 1, or 0 where that is
  /// negative.
  Sizes output_size(const Sizes& sizes) const {
    Sizes out{};
    for (size_t d = 0; d < D; ++d)
      out[d] = std::max<int64_t>(0, (sizes[d] - 1) * this->stride[d] - 2 * this->padding[d] +
                                        this->dilation[d] * (this->kernel[d] - 1) +
                                        output_padding[d] + 1);
    return out;
  }
  template <class Shape>
  Sizes output_of(const Shape& shape) const {
    Sizes sizes{};
    for (size_t d = 0; d < D; ++d) sizes[d] = shape[d + 2];
    return output_size(sizes);
  }
};

/// Conv: the block of the convolution over the stuffed input, ConvBlock or VolumeConvBlock. Kernels
/// are [O, C/groups, kernel...], as that one has them.
template <class Conv>
class TransposedConvBlock : public Block {
 public:
  using Geometry = TransposedGeometry<Conv::Geometry::kDimension>;
  /// feature_power: of the patches' entries one of every stride^D is not a zero between.
  TransposedConvBlock(Tensor weight, const Geometry& geometry);

  Tensor to_matrix(const Tensor& weight) const override;
  Tensor phi(const Tensor& x) const override;
  Tensor to_positions(const Tensor& y) const override;
  Tensor from_positions(const Tensor& y, const Tensor& x) const override;
  /// By torch's transposed convolution, as the next two.
  Tensor apply(const Tensor& matrix, const Tensor& x) const override;
  Tensor backward_data(const Tensor& g, const Tensor& x) const override;
  Tensor gradient(const Tensor& x, const Tensor& g) const override;
  /// That of the convolution over the stuffed input.
  Tensor input_gram(const Tensor& x) const override;
  double input_gram_flops(const Tensor& x) const override;

  static double feature_power_of(const Geometry& geometry);

 protected:
  /// [O, C/groups, kernel...]
  virtual std::vector<int64_t> kernel_sizes() const { return weight_.sizes().vec(); }
  /// [groups, O/groups, J] or a kernel -> torch's weight [C, O/groups, kernel...], and back.
  Tensor to_torch(const Tensor& matrix) const;
  Tensor from_torch(const Tensor& weight) const;

 private:
  Conv inner() const;
  std::vector<int64_t> stuffed_sizes(const Tensor& x) const;
  Tensor stuffed(const Tensor& x) const;
  /// Of features [.., C/groups P] those of the kernel turned about its middle.
  Tensor turned(const Tensor& features) const;

  Geometry geometry_;
};

extern template class TransposedConvBlock<ConvBlock>;
extern template class TransposedConvBlock<VolumeConvBlock>;

/// torch.nn.ConvTranspose2d or 3d: weight [C, O/groups, kernel...], bias [O]. torch's default
/// initialisation.
template <class Conv>
class ConvTranspose : public LinearMap {
 public:
  using Geometry = typename TransposedConvBlock<Conv>::Geometry;
  ConvTranspose(int64_t inputs, int64_t outputs, const Geometry& geometry, bool bias = true);
  void before_polyphase(int64_t stride) override { weight_block().phase_stride = stride; }

 private:
  class Map;
};

extern template class ConvTranspose<ConvBlock>;
extern template class ConvTranspose<VolumeConvBlock>;
using ConvTranspose2d = ConvTranspose<ConvBlock>;
using ConvTranspose3d = ConvTranspose<VolumeConvBlock>;

}  // namespace evariste
