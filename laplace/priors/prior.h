// Priors over one block's weights: the extension point of symmetry learning.
//
// In a sum of pathways of nested flexibility (FC > CONV > group conv) the precisions of the
// pathways' priors *are* the learned degree of symmetry: precision -> infinity removes a pathway.
//
// prior.update = "profile" lets the weights of a block answer by their length alone: a prior that
// sees more of its block than the norm is fitted exactly by "newton" and "adam" only, and one whose
// precision depends on the weights is refused.
//
// To add one: see CONTRIBUTING.md.
#pragma once

#include <concepts>
#include <map>
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
  { P::kName } -> std::convertible_to<std::string_view>;  // the name used in TOML files
  { prior.log_density(theta) } -> std::same_as<Tensor>;   // [], nats, differentiable in both
  { prior.precision(theta) } -> std::same_as<Tensor>;     // [] or theta's shape; enters P0
  // Float64 leaf tensors that grow with the precision, as log delta does; kept in [-10, 20].
  { prior.hyperparameters() } -> std::same_as<NamedTensors>;
};

/// A prior may also have `Tensor log_hyper_density() const`: [], log density of the
/// hyper-parameters themselves, counted once however many blocks share the prior; and
/// `std::map<std::string, double> constants() const`: the keys of its TOML table, from which a
/// saved posterior makes it again.

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
  Tensor log_hyper_density() const { return self_->log_hyper_density(); }
  std::map<std::string, double> constants() const { return self_->constants(); }
  /// Handles of the same prior share its hyper-parameters.
  bool is_same(const Prior& other) const { return self_ == other.self_; }

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual std::string_view name() const = 0;
    virtual Tensor log_density(const Tensor& theta) const = 0;
    virtual Tensor precision(const Tensor& theta) const = 0;
    virtual NamedTensors hyperparameters() const = 0;
    virtual Tensor log_hyper_density() const = 0;
    virtual std::map<std::string, double> constants() const = 0;
  };
  template <class P>
  struct Model final : Interface {
    explicit Model(P p) : prior(std::move(p)) {}
    std::string_view name() const override { return P::kName; }
    Tensor log_density(const Tensor& theta) const override { return prior.log_density(theta); }
    Tensor precision(const Tensor& theta) const override { return prior.precision(theta); }
    NamedTensors hyperparameters() const override { return prior.hyperparameters(); }
    Tensor log_hyper_density() const override {
      if constexpr (requires { prior.log_hyper_density(); }) return prior.log_hyper_density();
      return torch::zeros({}, torch::kFloat64);
    }
    std::map<std::string, double> constants() const override {
      if constexpr (requires { prior.constants(); }) return prior.constants();
      return {};
    }
    P prior;
  };
  std::shared_ptr<const Interface> self_;
};

/// log of a positive number as an unconstrained leaf, [] or `shape`.
inline Tensor log_leaf(double value, at::IntArrayRef shape = {}) {
  return torch::full(shape, std::log(value), torch::kFloat64).requires_grad_();
}

}  // namespace evariste
