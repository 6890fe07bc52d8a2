// theta_i ~ N(0, 1 / delta_i), one precision for every entry (automatic relevance determination,
// MacKay 1992). For diagonal and dense curvature; a Kronecker product cannot be combined with it.
#pragma once

#include <numbers>

#include "laplace/priors/prior.h"

namespace evariste {

class DiagonalGaussian {
 public:
  static constexpr std::string_view kName = "diagonal-gaussian";

  DiagonalGaussian(double precision, at::IntArrayRef shape)
      : log_precision_(log_leaf(precision, shape)) {}
  DiagonalGaussian() : DiagonalGaussian(1.0, {1, 3, 5}) {}

  Tensor precision(const Tensor&) const { return log_precision_.exp(); }

  Tensor log_density(const Tensor& theta) const {
    return 0.5 *
           (log_precision_ - std::log(2 * std::numbers::pi) - log_precision_.exp() * theta.square())
               .sum();
  }

  NamedTensors hyperparameters() const { return {{"log_precision", log_precision_}}; }

 private:
  Tensor log_precision_;  // theta's shape
};
static_assert(LayerPrior<DiagonalGaussian>);

}  // namespace evariste
