// Layers made of layers: in sequence, around a skip, in parallel pathways.
#pragma once

#include "laplace/layer.h"
#include "laplace/repeated_block.h"

namespace evariste {

/// One after another; children are named "0", "1", ... as in torch.nn.Sequential.
class Sequential : public Layer {
 public:
  void append(std::shared_ptr<Layer> layer);
  /// Another layer in place of layer i, under its name.
  void replace(size_t i, const std::shared_ptr<Layer>& layer);
  const std::vector<std::shared_ptr<Layer>>& layers() const { return layers_; }

  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                  bool needs_input) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;
  void before_polyphase(int64_t stride) override;
  void visit_blocks(const std::function<void(Block&)>& visit) override;

 protected:
  /// skip + Sequential::backward(...), which needs the input's cotangent.
  Tensor sequential_backward_onto(const Tensor& skip, const Tensor& g, const Tape& tape,
                                  const Sink& sink) const;

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
/// precisions are the learned degree of symmetry. Pathway k is the child "k". A pathway may begin
/// with a sum of its own (pathways that are subsampled together): without a scale that one is a
/// plain sum, and K counts its pathways.
class Sum : public Layer {
 public:
  explicit Sum(double scale = 0) : scale_(scale) {}
  void append(std::shared_ptr<Layer> path);
  /// Another pathway in place of pathway k, which is no sum itself, nor is the new one without a
  /// scale.
  void replace(size_t k, const std::shared_ptr<Layer>& path);
  const std::vector<std::shared_ptr<Layer>>& paths() const { return paths_; }
  double scale() const;
  /// Where pathway k begins with a sum and has no other weights: that sum; else null.
  const Sum* inner_sum(size_t k) const { return inner_[k].get(); }

  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                  bool needs_input) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;
  void before_polyphase(int64_t stride) override;
  void visit_blocks(const std::function<void(Block&)>& visit) override;

 private:
  size_t count_pathways() const;

  std::vector<std::shared_ptr<Layer>> paths_;
  std::vector<std::shared_ptr<Sum>> inner_;  // of each pathway
  double scale_;
  bool is_inner_ = false;
};

/// From a sum down: which pathway of which sum.
using Choices = std::vector<std::pair<const Sum*, size_t>>;
/// The pathways of a sum; in place of one that begins with a sum, that sum's.
std::vector<Choices> pathways_of(const Sum& sum);
/// The sums of a network that no pathway of another begins with, in order, with their names.
std::vector<std::pair<std::string, const Sum*>> outer_sums(const torch::nn::Module& network);

}  // namespace evariste
