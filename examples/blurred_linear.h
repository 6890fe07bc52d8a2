// A layer with a hyper-parameter inside its features: y = W phi(x) + b, where phi blurs its input.
//
//   phi(x)_j = sum_i k_ji x_i,   k_ji proportional to exp(-(i - j)^2 / (2 s^2)),   sum_i k_ji = 1
//
// Only phi and the layout of the output are written here. Curvature of every structure, evidence,
// training steps, predictive and the gradient of the evidence in the bandwidth s follow from them.
#pragma once

#include <nn/linear_map.h>

namespace blurred {

using evariste::Tensor;

class BlurBlock : public evariste::Block {
 public:
  /// weight [O, D]; log_bandwidth [], a leaf: s in units of the input's spacing.
  BlurBlock(Tensor weight, Tensor log_bandwidth)
      : Block(std::move(weight)), log_bandwidth_(std::move(log_bandwidth)) {}

  /// x [n, D] -> [1, n, 1, D]
  Tensor phi(const Tensor& x) const override {
    return x.matmul(kernel().to(x.scalar_type()).t()).unsqueeze(0).unsqueeze(2);
  }
  /// y [m, O] -> [1, m, 1, O]
  Tensor to_positions(const Tensor& y) const override { return y.unsqueeze(0).unsqueeze(2); }
  Tensor from_positions(const Tensor& y, const Tensor&) const override {
    return y.squeeze(2).squeeze(0);
  }
  std::vector<Tensor> hyperparameters() const override { return {log_bandwidth_}; }

 private:
  Tensor kernel() const {  // [D, D]
    const auto place = torch::arange(weight_.size(1), log_bandwidth_.options());
    const auto distance = place.unsqueeze(0) - place.unsqueeze(1);
    return (-0.5 * (distance / log_bandwidth_.exp()).square()).softmax(1);
  }

  Tensor log_bandwidth_;
};

class BlurredLinear : public evariste::LinearMap {
 public:
  BlurredLinear(int64_t inputs, int64_t outputs, double bandwidth)
      : BlurredLinear(inputs, outputs,
                      torch::full({}, std::log(bandwidth), torch::kFloat64).requires_grad_()) {}

  /// A bandwidth that several layers share.
  BlurredLinear(int64_t inputs, int64_t outputs, Tensor shared_log_bandwidth)
      : log_bandwidth(std::move(shared_log_bandwidth)) {
    const double bound = 1 / std::sqrt(static_cast<double>(inputs));
    const auto w =
        register_parameter("weight", torch::empty({outputs, inputs}).uniform_(-bound, bound));
    const auto b = register_parameter("bias", torch::zeros({outputs}));
    set_blocks(std::make_unique<BlurBlock>(w, log_bandwidth),
               std::make_unique<evariste::BiasBlock>(b, std::vector<int64_t>{outputs},
                                                     evariste::BiasBlock::Axis::kLast));
  }

  Tensor log_bandwidth;
};

}  // namespace blurred
