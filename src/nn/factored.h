// Factored fully connected layer: a dense map theta(d,c,y,x) = V(y,d,c) U(d,c,x).
//
//   z[n,c,d] = sum_x U[d,c,x] x[n,c,x] + b_U[d]        (b_U shared over c)
//   y[n,d,y] = sum_c V[y,d,c] z[n,c,d] + b_V[y]        (b_V shared over d)
//
// D C (X + Y) instead of D C X Y weights (van der Ouderaa et al. 2023, sec. 4.1). Two blocks, each
// linear given the other, each block-diagonal: U in c, V in d; so its curvature is that of grouped
// maps, exact within each group for one sample.
#pragma once

#include "laplace/layer.h"

namespace evariste {

class FactoredFullyConnected : public Layer {
 public:
  /// input {C, H, W}, output {D, H', W'}. U ~ U(+-sqrt(3/X)), V ~ U(+-sqrt(3/C)), biases 0: unit
  /// variance is kept.
  FactoredFullyConnected(std::vector<int64_t> input, std::vector<int64_t> output,
                         bool bias_u = true, bool bias_v = true);
  ~FactoredFullyConnected() override;

  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                  bool needs_input) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;
  void visit_blocks(const std::function<void(Block&)>& visit) override;
  bool flattens_images() const override { return true; }

  /// Block::feature_power of U and V, and fresh weights that go with them.
  void set_feature_powers(double u, double v);

 private:
  class Map;
  std::unique_ptr<Map> first_;   // x [n, C, X] -> z [n, C, D]
  std::unique_ptr<Map> second_;  // z [n, C, D] -> y [n, D, Y]
  std::vector<int64_t> input_, output_;
};

}  // namespace evariste
