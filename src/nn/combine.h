// Layers made of layers: in sequence, around a skip, in parallel pathways.
#pragma once

#include "laplace/layer.h"
#include "laplace/repeated_block.h"

namespace evariste {

/// One after another; children are named "0", "1", ... as in torch.nn.Sequential.
class Sequential : public Layer {
 public:
  void append(std::shared_ptr<Layer> layer);
  const std::vector<std::shared_ptr<Layer>>& layers() const { return layers_; }

  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                  bool needs_input) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;
  void before_polyphase(int64_t stride) override;
  void visit_blocks(const std::function<void(Block&)>& visit) override;

 private:
  std::vector<std::shared_ptr<Layer>> layers_;
};

/// y = x + body(x); the body's layers are the children "0", "1", ...
class Residual : public Sequential {
 public:
  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                  bool needs_input) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;
};

/// y = body(body(..(x))), `times` uses of the same weights, for bodies that keep the shape of x.
/// The body's layers are the children "0", "1", ... Its blocks are reported with all their uses, so
/// a backward keeps the inputs and cotangents of a block until the last use.
class Repeat : public Sequential {
 public:
  Repeat(const std::vector<std::shared_ptr<Layer>>& body, int64_t times);
  int64_t times() const { return times_; }

  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                  bool needs_input) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;
  /// Of the last use only: all positions of the others matter.
  void before_polyphase(int64_t) override {}
  void visit_blocks(const std::function<void(Block&)>& visit) override;

 private:
  int64_t times_;
  RepeatedBlocks blocks_;
};

/// y = scale sum_k path_k(x), scale 1/K unless given: pathways of nested flexibility whose prior
/// precisions are the learned degree of symmetry. Pathway k is the child "k".
class Sum : public Layer {
 public:
  explicit Sum(double scale = 0) : scale_(scale) {}
  void append(std::shared_ptr<Layer> path);
  const std::vector<std::shared_ptr<Layer>>& paths() const { return paths_; }
  double scale() const;

  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                  bool needs_input) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;
  void before_polyphase(int64_t stride) override;
  void visit_blocks(const std::function<void(Block&)>& visit) override;

 private:
  std::vector<std::shared_ptr<Layer>> paths_;
  double scale_;
};

}  // namespace evariste
