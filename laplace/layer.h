// Layers whose parameters live in Blocks: forward with a tape, folded backward, forward derivative.
//
// The tape is an argument, one node per layer, so several passes may be alive at once and nothing
// is hooked into autograd. Backward carries R cotangents per sample folded in front of the batch,
// g [R, n, ...], so one call serves all columns of a GGN root (Dangel et al. 2020; the folded
// form is ours).
#pragma once

#include <torch/nn/module.h>

#include <functional>
#include <vector>

#include "laplace/block.h"

namespace evariste {

/// What one layer keeps of a forward pass.
struct Tape {
  Tensor x;       ///< the layer's input [n, ...]
  Tensor aux;     ///< what backward needs besides: slope, mask, argmax
  Tensor output;  ///< of a pathway: its contribution before averaging, for variance shares
  std::vector<Tape> children;
};

/// Called by backward for each Block it passes: input x [n, ...], cotangent g [R, n, ...].
using Sink = std::function<void(const Block& block, const Tensor& x, const Tensor& g)>;

/// Direction of a block's weight as [Q, O, J], or an undefined tensor for zero.
using Direction = std::function<Tensor(const Block& block)>;

class Layer : public torch::nn::Module {
 public:
  /// x [n, ...] -> [n, ...]; differentiable by autograd where weights or x require it.
  virtual Tensor forward(const Tensor& x, Tape* tape = nullptr) const = 0;

  /// g [R, n, ...] at the output -> [R, n, ...] at the input, or an undefined tensor unless
  /// `needs_input`. Reports every block to `sink`.
  virtual Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                          bool needs_input) const = 0;

  /// Directional derivative of the output [n, ...] for dx [n, ...] (undefined: zero) at the input
  /// and `direction` at the weights; undefined where it is zero.
  virtual Tensor jvp(const Tensor& dx, const Tape& tape, const Direction& direction) const = 0;

  /// Told that the layer behind keeps one of stride x stride phases of this one's output.
  virtual void before_polyphase(int64_t stride) { (void)stride; }

  /// What the layer is called, "dropout", if it draws at random or couples the samples of a batch
  /// in training mode, where curvature is undefined then; empty for all others.
  virtual std::string_view varies_in_training() const { return {}; }

  /// Every Block of the layer, in the order of its parameters.
  virtual void visit_blocks(const std::function<void(Block&)>& visit) { (void)visit; }
};

/// The blocks of a network in registration order, named as in its state_dict.
std::vector<Block*> named_blocks(Layer& network);

/// g [R, n, ...] -> [R n, ...] and back.
Tensor fold(const Tensor& g);
Tensor unfold(const Tensor& g, int64_t folds);

}  // namespace evariste
