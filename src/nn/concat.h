// Pathways one behind the other along the channels: the skip of a U-net (Ronneberger et al. 2015).
#pragma once

#include "laplace/layer.h"

namespace evariste {

/// y = [path_0(x), path_1(x), ...], [n, sum_k C_k, ...] for outputs of equal sides; pathway k is
/// the child "k", a Sequential without layers the identity.
class Concat : public Layer {
 public:
  void append(std::shared_ptr<Layer> path);
  const std::vector<std::shared_ptr<Layer>>& paths() const { return paths_; }

  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                  bool needs_input) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;
  void before_polyphase(int64_t stride) override;
  void visit_blocks(const std::function<void(Block&)>& visit) override;

 private:
  std::vector<std::shared_ptr<Layer>> paths_;
};

}  // namespace evariste
