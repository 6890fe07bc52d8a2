#include "train/hyper.h"

#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "core/error.h"

namespace evariste {
namespace {

constexpr const char* kRanges = "augmentation";

std::vector<Tensor> tensors_of(const NamedTensors& named) {
  std::vector<Tensor> out;
  for (const auto& [name, tensor] : named) out.push_back(tensor);
  return out;
}

/// Zeros in place of what did not depend on a leaf.
std::vector<Tensor> gradients_of(const Tensor& objective, const std::vector<Tensor>& leaves) {
  auto gradients = torch::autograd::grad({objective}, leaves, {}, c10::nullopt,
                                         /*create_graph=*/false, /*allow_unused=*/true);
  for (size_t i = 0; i < leaves.size(); ++i)
    if (!gradients[i].defined()) gradients[i] = torch::zeros_like(leaves[i]).detach();
  return gradients;
}

}  // namespace

HyperLearner::HyperLearner(Network& network, const AffineAugmentation* augmentation,
                           HyperConfig config)
    : network_(network), augmentation_(augmentation), config_(std::move(config)), adam_(1) {
  leaves_ = named_hyperparameters(network_);
  degrees_ = degrees_of(network_);
  if (ranges()) leaves_.emplace_back(kRanges, *ranges());
}

/// The ranges, where they are learnt.
const Tensor* HyperLearner::ranges() const {
  return augmentation_ && augmentation_->ranges().requires_grad() ? &augmentation_->ranges()
                                                                  : nullptr;
}

/// The degree that has a leaf as its coefficients.
const Degree* HyperLearner::degree_of(const Tensor& leaf) const {
  for (const auto* degree : degrees_)
    if (degree->theta().is_same(leaf)) return degree;
  return nullptr;
}

void HyperLearner::climb_evidence(const Likelihood& likelihood, const Priors& priors,
                                  const Samples& data, const CurvatureOptions& options,
                                  double learning_rate) {
  auto exact = options;
  exact.structure = Structure::kKron;
  exact.fisher = Fisher::kExact;
  exact.rank_tolerance = 0;
  exact.bases = true;
  exact.previous = nullptr;
  const auto fit = fit_curvature(network_, likelihood, data, exact);
  const auto cotangents = log_det_cotangents(fit, likelihood, priors);
  const auto leaves = tensors_of(leaves_);
  torch::AutoGradMode enabled(true);
  const auto surrogate = evidence_surrogate(network_, likelihood, data, fit, cotangents, exact);
  auto gradients = gradients_of(surrogate, leaves);
  if (ranges())
    data.sum(
        std::vector<Tensor>{gradients.back()});  // those of leaves in the network are sums already
  for (auto& gradient : gradients) gradient = -gradient;
  step(std::move(gradients), learning_rate);
}

void HyperLearner::descend_loss(const Likelihood& likelihood, const Samples& batch,
                                double learning_rate) {
  const auto leaves = tensors_of(leaves_);
  torch::AutoGradMode enabled(true);
  const FrozenWeights frozen(network_);
  const auto f = network_.forward(batch.inputs(0, batch.count()));
  const auto loss = -likelihood.log_density(f, batch.y).sum() /
                    static_cast<double>(std::max<int64_t>(batch.everywhere(), 1));
  auto gradients = gradients_of(loss, leaves);
  batch.sum(gradients);
  const DegreePenalty penalty{config_.alignment, config_.previous, config_.uniform};
  if (!degrees_.empty() && !penalty.is_zero()) {
    const auto of_penalty = gradients_of(penalty(degrees_), leaves);
    for (size_t i = 0; i < leaves.size(); ++i) gradients[i] = gradients[i] + of_penalty[i];
  }
  if (ranges()) {
    const auto& range = *ranges();
    const auto norm = range.detach().norm().clamp_min(1e-12);
    gradients.back() = gradients.back() + range.detach() * (config_.decay - config_.penalty / norm);
  }
  step(std::move(gradients), learning_rate);
}

void HyperLearner::step(std::vector<Tensor> descent, double learning_rate) {
  for (size_t i = 0; i < descent.size(); ++i)
    if (!torch::isfinite(descent[i]).all().item<bool>())
      throw NumericalError(
          fmt::format("the gradient in {} is not finite; lower train.hyper.lr", leaves_[i].first));
  if (ranges()) descent.back() = descent.back() * augmentation_->learnt();
  adam_.set_learning_rate(learning_rate);
  adam_.step(tensors_of(leaves_), descent);
}

std::vector<std::string> HyperLearner::names() const {
  std::vector<std::string> out;
  for (const auto& [name, tensor] : leaves_) {
    if (name == kRanges) continue;
    if (tensor.dim() == 0) out.push_back(name);
    for (int64_t i = 0; tensor.dim() > 0 && i < tensor.numel(); ++i)
      out.push_back(fmt::format("{}.{}", name, i));
    if (degree_of(tensor)) out.push_back(name + ".divergence");
  }
  if (augmentation_)
    for (const char* name : AffineAugmentation::kNames)
      out.push_back(fmt::format("{}.{}", kRanges, name));
  return out;
}

std::vector<double> HyperLearner::values() const {
  std::vector<double> out;
  for (const auto& [name, tensor] : leaves_) {
    if (name == kRanges) continue;
    const auto numbers = tensor.detach().flatten();
    for (int64_t i = 0; i < numbers.numel(); ++i) out.push_back(numbers[i].item<double>());
    if (const auto* degree = degree_of(tensor)) out.push_back(degree->divergence().item<double>());
  }
  if (augmentation_)
    for (int64_t i = 0; i < augmentation_->ranges().numel(); ++i)
      out.push_back(augmentation_->ranges()[i].item<double>());
  return out;
}

State HyperLearner::state() const {
  State state;
  for (const auto& [name, tensor] : leaves_)
    state["hyper." + name] = tensor.detach().to(torch::kCPU, /*non_blocking=*/false, /*copy=*/true);
  const auto adam = adam_.state();
  for (size_t i = 0; i < adam.size() && !leaves_.empty(); ++i)
    state[fmt::format("hyper_adam.{:04}", i)] = adam[i].cpu().clone();
  return state;
}

void HyperLearner::set_state(const State& state) {
  torch::NoGradGuard no_grad;
  for (const auto& [name, tensor] : leaves_) {
    const auto found = state.find("hyper." + name);
    if (found == state.end())
      throw IoError(
          fmt::format("the state lacks \"hyper.{}\": it belongs to another configuration", name));
    Tensor(tensor).copy_(found->second);
  }
  std::vector<Tensor> adam;
  for (const auto& [name, tensor] : state)
    if (name.starts_with("hyper_adam.")) adam.push_back(tensor.clone());
  adam_ = Adam(1);
  for (size_t i = 1; i < adam.size(); ++i)
    adam[i] = adam[i].to(leaves_[(i - 1) % leaves_.size()].second.device());
  if (!adam.empty()) adam_.set_state(adam);
}

}  // namespace evariste
