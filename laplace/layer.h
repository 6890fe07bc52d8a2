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

class Layer;

/// Told by a layer whose derivative depends on its input, with what it recorded: the cotangent at
/// its output (backward) or the tangent at its input (jvp), [R, n, ...].
using Bend = std::function<void(const Layer& layer, const Tape& tape, const Tensor& g)>;

/// What backward reports to.
struct Sink {
  using OnBlock = std::function<void(const Block& block, const Tensor& x, const Tensor& g)>;
  /// Called once for each Block: input x [n, ...], cotangent g [R, n, ...] at its output.
  template <class F, class = std::enable_if_t<
                         !std::is_same_v<std::remove_cvref_t<F>, Sink> &&
                         std::is_invocable_v<F, const Block&, const Tensor&, const Tensor&>>>
  Sink(F&& on_block) : block(std::forward<F>(on_block)) {}  // NOLINT: a lambda is a sink
  void operator()(const Block& b, const Tensor& x, const Tensor& g) const { block(b, x, g); }
  bool wants_any_of(Layer& layer) const;

  OnBlock block;
  /// Which blocks are of interest (empty: all). No cotangent is formed below the lowest of them;
  /// others above it may be reported all the same.
  std::function<bool(const Block& block)> wants;
  Bend bend;
};

/// What a forward derivative starts from: tangents at the outputs of blocks, or directions in which
/// their weights move. Without either of them: zero.
struct Tangents {
  using OfBlock = std::function<Tensor(const Block& block)>;
  OfBlock outputs;     ///< [R, n, ...] at the output, or undefined for zero
  OfBlock directions;  ///< [R, Q, O, J], or undefined for zero
  Bend bend;

  /// [R, n, ...] at the output of a block with input x [n, ...], or undefined for zero.
  Tensor operator()(const Block& block, const Tensor& x) const;
};

/// Tangents of moving the weights.
Tangents along(Tangents::OfBlock directions);

class Layer : public torch::nn::Module {
 public:
  /// x [n, ...] -> [n, ...]; differentiable by autograd where weights or x require it.
  virtual Tensor forward(const Tensor& x, Tape* tape = nullptr) const = 0;

  /// g [R, n, ...] at the output -> [R, n, ...] at the input, or an undefined tensor unless
  /// `needs_input`. Reports every block to `sink`, once: layers that use their body several times
  /// report RepeatedBlocks, which they visit too. A layer that reports blocks of its own in place
  /// of its children's hands them a sink whose `wants` asks for its own.
  virtual Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                          bool needs_input) const = 0;

  /// skip [R, n, ...] + backward(...), for layers that can add it in the same pass over memory.
  virtual Tensor backward_onto(const Tensor& skip, const Tensor& g, const Tape& tape,
                               const Sink& sink) const {
    return skip + backward(g, tape, sink, true);
  }

  /// Derivatives of the output [R, n, ...] for dx [R, n, ...] (undefined: zero) at the input and
  /// those of `tangents` inside; undefined where all are zero.
  virtual Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const = 0;

  /// The derivative changes with the input, other than by pieces as relu's does, or with a
  /// hyper-parameter. Such a layer says so here, calls the `bend` of Sink in backward and of
  /// Tangents in jvp (layers made of layers hand both on), and its jvp is differentiable by
  /// autograd in what forward taped: gradients of the evidence in hyper-parameters are wrong
  /// otherwise.
  virtual bool bends() const { return false; }
  /// Leaves of its own besides those of its blocks.
  virtual std::vector<Tensor> hyperparameters() const { return {}; }

  /// Told that the layer behind keeps one of stride x stride phases of this one's output.
  virtual void before_polyphase(int64_t stride) { (void)stride; }

  /// Takes whole images as vectors in the order [C, H, W], so that images laid out channels last in
  /// memory would be copied.
  virtual bool flattens_images() const { return false; }

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
/// y [R, n, ...] plus a term that may lack dimensions right behind the first, as the tangents of a
/// bias do: [R, O] for [R, n, T, O].
Tensor add_tangent(const Tensor& y, const Tensor& term);

}  // namespace evariste
