// theta ~ N(0, I / delta) with delta ~ Gamma(shape, rate): a hyper-prior on the precision of each
// block (relevance determination with a proper scale, Tipping 2001). In rho = log delta the density
// is
//   shape rho - rate e^rho + shape log rate - log Gamma(shape),
// so the evidence's fixed point moves from gamma/|theta|^2 to
//   (gamma + 2 shape)/(|theta|^2 + 2 rate):
// a pathway is pruned no further than delta = (gamma + 2 shape)/(2 rate).
#pragma once

#include "laplace/priors/isotropic_gaussian.h"

namespace evariste {

class GammaGaussian {
 public:
  static constexpr std::string_view kName = "gamma-gaussian";

  explicit GammaGaussian(double precision = 1.0, double shape = 1.0, double rate = 1e-3)
      : gaussian_(precision), shape_(shape), rate_(rate) {}

  Tensor precision(const Tensor& theta) const { return gaussian_.precision(theta); }

  Tensor log_density(const Tensor& theta) const { return gaussian_.log_density(theta); }

  Tensor log_hyper_density() const {
    const auto log_delta = gaussian_.hyperparameters()[0].second;
    return shape_ * log_delta - rate_ * log_delta.exp() +
           (shape_ * std::log(rate_) - std::lgamma(shape_));
  }

  NamedTensors hyperparameters() const { return gaussian_.hyperparameters(); }
  std::map<std::string, double> constants() const { return {{"shape", shape_}, {"rate", rate_}}; }

 private:
  IsotropicGaussian gaussian_;
  double shape_, rate_;
};
static_assert(LayerPrior<GammaGaussian>);

}  // namespace evariste
