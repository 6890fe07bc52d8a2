// Convolutions whose kernels have fewer weights than entries.
//
// The kernel is E(W), linear in the weights W: rotated copies of one filter (group convolutions),
// or a filter interpolated between anchor points. Patches are those of the whole convolution; phi
// is what E's transpose makes of them, so positions may be several for each output pixel. All
// passes over images are those of the whole convolution, which is fast; only small tensors are
// expanded.
#pragma once

#include "nn/convolution.h"
#include "nn/volume_convolution.h"

namespace evariste {

/// Conv: the block of the whole convolution, ConvBlock or VolumeConvBlock.
template <class Conv>
class ExpandedBlock : public Block {
 public:
  using Geometry = typename Conv::Geometry;
  /// geometry: of the whole convolution.
  ExpandedBlock(Tensor weight, Geometry geometry) : Block(std::move(weight)), geometry_(geometry) {}

  Tensor phi(const Tensor& x) const override;
  Tensor apply(const Tensor& matrix, const Tensor& x) const override;
  Tensor backward_data(const Tensor& g, const Tensor& x) const override;
  Tensor gradient(const Tensor& x, const Tensor& g) const override;
  /// From the autocorrelation of images, not from patches.
  Tensor input_gram(const Tensor& x) const override;
  double input_gram_flops(const Tensor& x) const override;

 protected:
  /// [outputs, inputs/groups, kernel...] of the whole convolution.
  virtual std::vector<int64_t> kernel_sizes() const = 0;
  /// E(W): [Q, O, J] -> the kernel.
  virtual Tensor kernel(const Tensor& matrix) const = 0;
  /// The transpose of `kernel`.
  virtual Tensor pull_back(const Tensor& kernel) const = 0;
  /// Patches [groups, n, T, (inputs/groups) P] -> phi [Q, n, u T, J].
  virtual Tensor features(const Tensor& patches) const = 0;
  /// Their Gram matrices [groups, ., .] -> those of phi, [Q, J, J].
  virtual Tensor feature_gram(const Tensor& gram) const = 0;
  /// Between images as the layer has them and as the whole convolution takes them.
  virtual Tensor enter(const Tensor& x) const { return x; }
  virtual Tensor leave(const Tensor& y) const { return y; }

  const Geometry geometry_;

 private:
  /// A kernel for what looks at its sizes alone.
  Tensor any_kernel() const;
};

extern template class ExpandedBlock<ConvBlock>;
extern template class ExpandedBlock<VolumeConvBlock>;
using ExpandedConvBlock = ExpandedBlock<ConvBlock>;

}  // namespace evariste
