// theta ~ N(0, I / delta), one precision for a whole block (MacKay 1992; "layerwise" when every
// block has its own, "scalar" when all share one).
#pragma once

#include <numbers>

#include "laplace/priors/prior.h"

namespace evariste {

class IsotropicGaussian {
 public:
  static constexpr std::string_view kName = "isotropic-gaussian";

  explicit IsotropicGaussian(double precision = 1.0) : log_precision_(log_leaf(precision)) {}

  Tensor precision(const Tensor&) const { return log_precision_.exp(); }

  Tensor log_density(const Tensor& theta) const {
    const auto n = static_cast<double>(theta.numel());
    return 0.5 * (n * (log_precision_ - std::log(2 * std::numbers::pi)) -
                  log_precision_.exp() * theta.square().sum());
  }

  NamedTensors hyperparameters() const { return {{"log_precision", log_precision_}}; }

 private:
  Tensor log_precision_;  // [], learnt in log space so that the precision stays positive
};
static_assert(LayerPrior<IsotropicGaussian>);

}  // namespace evariste
