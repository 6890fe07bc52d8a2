#include "train/kfac.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace evariste {
namespace {

/// A layer works in coordinates itself where materialising U_B W' U_A^T each step would cost more
/// than the thin products.
constexpr int64_t kLargeBlock = 1 << 16;

double sum_of_products(const Tensor& a, const Tensor& b) { return a.dot(b).item<double>(); }

}  // namespace

KfacStep::KfacStep(std::vector<Block*> blocks, const KfacConfig& config)
    : config_(config), damping_(config.damping) {
  int64_t total = 0;
  for (auto* block : blocks) {
    Part part{block, total, block->parameters(), block->value().sizes().vec(), {}, {}, false, {}};
    index_[block] = parts_.size();
    total += part.count;
    parts_.push_back(std::move(part));
  }
  const auto options = blocks.at(0)->weight().options().requires_grad(false);
  for (auto* flat : {&theta_, &momentum_, &gradient_, &lambda_, &pull_})
    *flat = torch::zeros({total}, options);
}

Tensor KfacStep::view(const Tensor& flat, const Part& part) const {
  return flat.narrow(0, part.begin, part.count).view(part.shape);
}

Tensor KfacStep::to_coordinates(const Tensor& w, const Part& part) const {
  auto out = w;
  if (part.basis_b.defined()) out = part.basis_b.transpose(1, 2).matmul(out);
  if (part.basis_a.defined()) out = out.matmul(part.basis_a);
  return out;
}

Tensor KfacStep::from_coordinates(const Tensor& w, const Part& part) const {
  auto out = w;
  if (part.basis_b.defined()) out = part.basis_b.matmul(out);
  if (part.basis_a.defined()) out = out.matmul(part.basis_a.transpose(1, 2));
  return out;
}

void KfacStep::enter(const KronCurvature& curvature, const std::vector<double>& precisions) {
  torch::NoGradGuard no_grad;
  if (inside_) leave();
  for (size_t m = 0; m < parts_.size(); ++m) {
    auto& part = parts_[m];
    const auto& f = curvature.factors()[m];
    if (!f.is_complete())
      throw UsageError(fmt::format(
          "{}: the K-FAC step needs a refresh of at least as many images as inputs ({}); raise "
          "train.refresh.samples or use optimiser sgd",
          part.block->name, std::max(f.a.dimension(), f.b.dimension())));
    const auto type = part.block->weight().scalar_type();
    part.basis_b = part.shape[1] > 1 ? f.b.basis.to(type) : Tensor();
    part.basis_a = part.shape[2] > 1 ? f.a.basis.to(type) : Tensor();
    view(theta_, part).copy_(to_coordinates(part.block->value(), part));
    view(momentum_, part).copy_(to_coordinates(view(momentum_, part).clone(), part));
    view(lambda_, part)
        .copy_((curvature.scale() * f.correction) * f.b.values.unsqueeze(2) *
               f.a.values.unsqueeze(1));
    view(pull_, part).fill_(precisions[m]);
    part.in_layer = part.count >= kLargeBlock && part.shape[0] == 1 && part.basis_a.defined() &&
                    part.basis_b.defined() &&
                    part.block->set_bases(part.basis_b[0], part.basis_a[0]);
    if (part.in_layer) {
      part.outside = part.block->weight().data();
      auto weight = part.block->weight();
      weight.set_data(view(theta_, part)[0].view(weight.sizes()));
    }
  }
  samples_ = curvature.samples();
  averaged_ = clips_ = 0;
  clip_sum_ = 0;
  inside_ = true;
}

void KfacStep::leave() {
  if (!inside_) return;
  torch::NoGradGuard no_grad;
  if (averaged_ > 0) theta_.copy_(average_ / static_cast<double>(averaged_));
  averaged_ = 0;
  for (auto& part : parts_) {
    auto weight = part.block->weight();
    if (part.in_layer) {
      weight.set_data(part.outside);
      part.outside = Tensor();
      part.block->set_bases(Tensor(), Tensor());
      part.in_layer = false;
    }
    weight.copy_(part.block->from_matrix(from_coordinates(view(theta_, part), part)));
    view(momentum_, part).copy_(from_coordinates(view(momentum_, part).clone(), part));
  }
  inside_ = false;
}

void KfacStep::write_weights() {
  for (auto& part : parts_) {
    if (part.in_layer) continue;
    auto weight = part.block->weight();
    weight.copy_(part.block->from_matrix(from_coordinates(view(theta_, part), part)));
  }
}

void KfacStep::gradient(const Block& block, const Tensor& x, const Tensor& g) {
  const auto& part = parts_.at(index_.at(&block));
  auto sum = part.block->gradient(x, g);
  if (!part.in_layer) sum = to_coordinates(sum, part);
  view(gradient_, part).copy_(sum);
}

double KfacStep::step(const Loss& loss, double lr, double weight, bool average) {
  torch::NoGradGuard no_grad;
  const double before = loss(true);
  gradient_.mul_(-weight).addcmul_(pull_, theta_);  // of F; the backward pass reports that of log p
  auto u = lambda_ + pull_;
  u.add_(damping_);
  at::div_out(u, gradient_, u);
  const double decrease = sum_of_products(u, gradient_);
  const double nu = std::min(
      1.0, std::sqrt(config_.clip * static_cast<double>(samples_) / (lr * lr * decrease + 1e-300)));
  clip_sum_ += nu;
  ++clips_;
  momentum_.mul_(config_.momentum).add_(u, nu);
  const bool measure = config_.damping_every > 0 && ++steps_ % config_.damping_every == 0;
  double predicted = 0, slope = 0, prior_before = 0;
  if (measure) {
    slope = -lr * sum_of_products(gradient_, momentum_);
    at::add_out(u, lambda_, pull_);
    u.mul_(momentum_);
    predicted = slope + 0.5 * lr * lr * sum_of_products(u, momentum_);
    prior_before = 0.5 * sum_of_products(pull_ * theta_, theta_);
  }
  theta_.add_(momentum_, -lr);
  write_weights();
  if (measure) {
    const double prior_after = 0.5 * sum_of_products(pull_ * theta_, theta_);
    const double change = weight * (loss(false) - before) + prior_after - prior_before;
    adapt(predicted < 0 ? change / predicted : -1, slope < 0 && predicted < 0);
    if (slope < 0 && predicted >= 0)
      damping_ = std::min(damping_ / config_.damping_factor, config_.damping_max);
  }
  if (average) {
    if (averaged_ == 0) {
      average_ = theta_.clone();
    } else {
      average_.add_(theta_);
    }
    ++averaged_;
  }
  return before;
}

void KfacStep::adapt(double ratio, bool downhill) {
  // Thresholds of Levenberg-Marquardt; a step that made things worse doubles the damping.
  constexpr double kPoor = 0.5, kGood = 0.75;
  if (!downhill || !std::isfinite(ratio)) return;
  if (ratio < kPoor) {
    damping_ *= ratio < 0 ? 2.0 : std::pow(config_.damping_factor, -1.5);
  } else if (ratio > kGood) {
    damping_ *= config_.damping_factor;
  }
  damping_ = std::clamp(damping_, config_.damping_min, config_.damping_max);
}

void KfacStep::raise_damping(double factor) {
  damping_ = std::min(damping_ * factor, config_.damping_max);
}

void KfacStep::forget_momentum() { momentum_.zero_(); }

std::map<std::string, Tensor> KfacStep::state() const {
  std::map<std::string, Tensor> state;
  state["kfac.damping"] = torch::tensor(damping_, torch::kFloat64);
  state["kfac.steps"] = torch::tensor(steps_);
  state["kfac.momentum"] = momentum_.clone();
  return state;
}

void KfacStep::set_state(const std::map<std::string, Tensor>& state) {
  damping_ = state.at("kfac.damping").item<double>();
  steps_ = state.at("kfac.steps").item<int64_t>();
  momentum_.copy_(state.at("kfac.momentum"));
}

}  // namespace evariste
