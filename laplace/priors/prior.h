// Priors over one block's weights: the extension point of symmetry learning.
//
// In a sum of pathways of nested flexibility (FC > CONV > group conv) the precisions of the
// pathways' priors *are* the learned degree of symmetry: precision -> infinity removes a pathway.
//
// prior.update = "profile" lets the weights of a block answer by their length alone: a prior that
// sees more of its block than the norm is fitted exactly by "newton" and "adam" only.
//
// To add one: a header like isotropic_gaussian.h, a line in builtin.cpp, a test.
#pragma once

#include <concepts>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "laplace/shape.h"

namespace evariste {

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

/// What a prior over the weights of one block must offer. theta [Q, O, J] float64.
/// precision is the one that pulls: -d log density/d theta = precision(theta) o theta; for a
/// Gaussian it does not depend on theta.
template <class P>
concept LayerPrior = requires(const P& prior, const Tensor& theta) {
  { P::kName } -> std::convertible_to<std::string_view>;      // the name used in TOML files
  { prior.log_density(theta) } -> std::same_as<Tensor>;       // [], nats, differentiable in both
  { prior.precision(theta) } -> std::same_as<Tensor>;         // [] or theta's shape; enters P0
  { prior.hyperparameters() } -> std::same_as<NamedTensors>;  // unconstrained float64 leaf tensors
};

/// Any LayerPrior. A handle: copies share hyper-parameters, so one Prior given to several blocks is
/// one prior for all of them.
class Prior {
 public:
  template <LayerPrior P>
  Prior(P prior) : self_(std::make_shared<Model<P>>(std::move(prior))) {}  // NOLINT: implicit

  std::string_view name() const { return self_->name(); }
  Tensor log_density(const Tensor& theta) const { return self_->log_density(theta); }
  Tensor precision(const Tensor& theta) const { return self_->precision(theta); }
  NamedTensors hyperparameters() const { return self_->hyperparameters(); }

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual std::string_view name() const = 0;
    virtual Tensor log_density(const Tensor& theta) const = 0;
    virtual Tensor precision(const Tensor& theta) const = 0;
    virtual NamedTensors hyperparameters() const = 0;
  };
  template <class P>
  struct Model final : Interface {
    explicit Model(P p) : prior(std::move(p)) {}
    std::string_view name() const override { return P::kName; }
    Tensor log_density(const Tensor& theta) const override { return prior.log_density(theta); }
    Tensor precision(const Tensor& theta) const override { return prior.precision(theta); }
    NamedTensors hyperparameters() const override { return prior.hyperparameters(); }
    P prior;
  };
  std::shared_ptr<const Interface> self_;
};

/// log of a positive number as an unconstrained leaf, [] or `shape`.
inline Tensor log_leaf(double value, at::IntArrayRef shape = {}) {
  return torch::full(shape, std::log(value), torch::kFloat64).requires_grad_();
}

}  // namespace evariste
