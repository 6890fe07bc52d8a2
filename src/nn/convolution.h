// Convolutions in one and two dimensions: phi(x) = patches, positions = output pixels.
#pragma once

#include "nn/grid_geometry.h"
#include "nn/linear_map.h"

namespace evariste {

/// Two-dimensional throughout; a 1-d convolution has height 1.
using ConvGeometry = GridGeometry<2>;

/// weight [O, C/groups, kh, kw]; phi [groups, n, T, C/groups kh kw], from the padded input, so that
/// a circular convolution has circular patches.
class ConvBlock : public Block {
 public:
  using Geometry = ConvGeometry;
  ConvBlock(Tensor weight, ConvGeometry geometry);

  Tensor to_matrix(const Tensor& weight) const override;
  Tensor phi(const Tensor& x) const override;
  /// Rows of the kernel, then its columns, then channels, as they lie in memory.
  Tensor gathered(const Tensor& x) const override;
  Tensor gathered_order() const override;
  Tensor scattered(const Tensor& g, const Tensor& x) const override;
  Tensor to_positions(const Tensor& y) const override;
  Tensor from_positions(const Tensor& y, const Tensor& x) const override;
  Tensor apply(const Tensor& matrix, const Tensor& x) const override;
  Tensor backward_data(const Tensor& g, const Tensor& x) const override;
  Tensor gradient(const Tensor& x, const Tensor& g) const override;
  /// Without patches (autocorrelation.h).
  Tensor input_gram(const Tensor& x) const override;
  /// At stride 1 as a convolution of twice the size, less what it takes from positions beyond the
  /// edges: (2k - 1)^2 C^2 multiplications for each pixel in place of k^4 C^2.
  std::function<Tensor(const Tensor&)> input_gram_backward(const Tensor& matrix,
                                                           const Tensor& x) const override;
  double input_gram_flops(const Tensor& x) const override;
  /// On a GPU without patches.
  std::function<Tensor(const Tensor&)> squared_gradients_of(const Tensor& x) const override;

 private:
  bool has_short_backward(const Tensor& x) const;
  Tensor pad(const Tensor& x) const;           // circular padding, or x
  Tensor pad_fully(const Tensor& x) const;     // with zeros too, channels last
  Tensor crop(const Tensor& g) const;          // the transpose of pad
  std::vector<int64_t> inner_padding() const;  // what the convolution still pads
  std::vector<int64_t> kernel_shape() const;

  ConvGeometry geometry_;
};

/// torch.nn.Conv2d with zeros or circular padding; x [n, C, H, W]. torch's default initialisation.
class Conv2d : public LinearMap {
 public:
  Conv2d(int64_t inputs, int64_t outputs, const ConvGeometry& geometry, bool bias = true);
  void before_polyphase(int64_t stride) override { weight_block().phase_stride = stride; }
};

/// torch.nn.Conv1d; x [n, C, L], weight [O, C/groups, k].
class Conv1d : public Layer {
 public:
  Conv1d(int64_t inputs, int64_t outputs, const ConvGeometry& geometry, bool bias = true);
  ~Conv1d() override;
  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                  bool needs_input) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;
  void visit_blocks(const std::function<void(Block&)>& visit) override;

 private:
  class Map;
  std::unique_ptr<Map> map_;
};

}  // namespace evariste
