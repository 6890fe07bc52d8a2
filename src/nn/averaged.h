// A network whose outputs are averaged over K copies of each sample, f(x_1 .. x_K) = 1/K sum_k
// f(x_k): augmented images of one image, frames (Immer et al. 2022, LILA).
#pragma once

#include "laplace/repeated_block.h"
#include "nn/network.h"

namespace evariste {

/// Takes x [n, K, ...input] with any K. The layers, and so weights and their names, are those of
/// the network it is made from, which may be used by itself besides. Likelihood and curvature see
/// the averaged outputs; every block sees the copies as positions of one sample, and Kronecker
/// factors are those of Block::one_copy (CurvatureOptions::copies). Cost: that of n K samples; the
/// Kronecker factors that of n.
class AveragedNetwork : public Network {
 public:
  explicit AveragedNetwork(const Network& network);

  /// One copy of each: [n, 1, ...input].
  Tensor zeros(int64_t n) const override { return Network::zeros(n).unsqueeze(1); }
  Tensor forward(const Tensor& x, Tape* tape = nullptr) const override;
  Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                  bool needs_input) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;
  void visit_blocks(const std::function<void(Block&)>& visit) override;

 private:
  RepeatedBlocks blocks_;
};

}  // namespace evariste
