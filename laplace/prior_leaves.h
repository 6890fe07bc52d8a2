// The hyper-parameters of all blocks' priors, each once, and Adam on them.
#pragma once

#include "laplace/evidence.h"

namespace evariste {

/// One hyper-parameter and the blocks whose prior has it.
struct PriorLeaf {
  Tensor tensor;
  std::vector<size_t> blocks;
  bool alone = true;  ///< in the prior of each
};

/// In the order of the blocks.
std::vector<PriorLeaf> leaves_of(const Priors& priors);

/// Bounds of every log precision.
constexpr double kLowestLogPrecision = -10, kHighestLogPrecision = 20;

/// Kingma & Ba 2015 with their constants, on tensors that keep their order from step to step.
class Adam {
 public:
  explicit Adam(double learning_rate) : learning_rate_(learning_rate) {}
  void set_learning_rate(double learning_rate) { learning_rate_ = learning_rate; }

  /// values[i] <- clamp(values[i] - step, lowest, highest), in place.
  void step(const std::vector<Tensor>& values, const std::vector<Tensor>& gradients,
            double lowest = kLowestLogPrecision, double highest = kHighestLogPrecision);

  /// The step count, then first and second moments, to resume from.
  std::vector<Tensor> state() const;
  void set_state(const std::vector<Tensor>& state);

 private:
  double learning_rate_;
  int64_t count_ = 0;
  std::vector<Tensor> first_, second_;
};

}  // namespace evariste
