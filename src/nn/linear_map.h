// A layer that is one weight block plus an optional bias: y = W phi(x) + b.
//
// Everything linear derives from it and supplies the Block; forward, folded backward and forward
// derivative follow.
#pragma once

#include "laplace/layer.h"

namespace evariste {

class LinearMap : public Layer {
 public:
  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                  bool needs_input) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;
  void visit_blocks(const std::function<void(Block&)>& visit) override;
  bool bends() const override { return !weight_->hyperparameters().empty(); }

  Block& weight_block() const { return *weight_; }

 protected:
  /// To be called once by the constructor of the derived layer; `bias` may be null. The tensors
  /// must be the registered parameters.
  void set_blocks(std::unique_ptr<Block> weight, std::unique_ptr<Block> bias);

 private:
  std::unique_ptr<Block> weight_, bias_;
};

}  // namespace evariste
