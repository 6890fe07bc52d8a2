#include "train/kfac.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"

namespace evariste {
namespace {

/// A layer works in coordinates itself where materialising U_B W' U_A^T each step would cost more
/// than the thin products.
constexpr int64_t kLargeBlock = 1 << 16;

/// Sums K numbers over [0, count) in chunks added in fixed order: the same for any thread count.
template <size_t K, class Chunk>
std::array<double, K> sum_over_chunks(int64_t count, const Chunk& chunk) {
  constexpr int64_t kChunk = 1 << 14;
  const auto chunks = (count + kChunk - 1) / kChunk;
  std::vector<std::array<double, K>> parts(static_cast<size_t>(chunks));
  at::parallel_for(0, chunks, 4, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c)
      parts[static_cast<size_t>(c)] = chunk(c * kChunk, std::min(count, (c + 1) * kChunk));
  });
  std::array<double, K> sum{};
  for (const auto& part : parts)
    for (size_t k = 0; k < K; ++k) sum[k] += part[k];
  return sum;
}

// A step is two passes over the coordinates, bound by memory.

template <class T>
struct Coordinates {
  T *theta, *momentum, *gradient;
  const T* lambda;
};

/// From the gradient of log p (what the backward pass reports) to that of F; returns <g, P^-1 g>.
template <class T>
double of_objective(const Coordinates<T>& at, int64_t first, int64_t count, double pull,
                    double damping, double weight) {
  const auto delta = static_cast<T>(pull), scale = static_cast<T>(weight),
             damped = static_cast<T>(pull + damping);
  return sum_over_chunks<1>(count, [&](int64_t begin, int64_t end) {
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = first + begin; i < first + end; ++i) {
      const T g = delta * at.theta[i] - scale * at.gradient[i];
      at.gradient[i] = g;
      sum += g * g / (at.lambda[i] + damped);
    }
    return std::array<double, 1>{static_cast<double>(sum)};
  })[0];
}

/// Momentum and weights; returns <g, m> and <m, P m>.
template <class T>
std::array<double, 2> advance(const Coordinates<T>& at, int64_t first, int64_t count, double pull,
                              double damping, double keep, double take, double rate) {
  const auto delta = static_cast<T>(pull), damped = static_cast<T>(pull + damping),
             mu = static_cast<T>(keep), nu = static_cast<T>(take), lr = static_cast<T>(rate);
  return sum_over_chunks<2>(count, [&](int64_t begin, int64_t end) {
    T along = 0, curved = 0;
#pragma omp simd reduction(+ : along, curved)
    for (int64_t i = first + begin; i < first + end; ++i) {
      const T m = mu * at.momentum[i] + nu * at.gradient[i] / (at.lambda[i] + damped);
      at.momentum[i] = m;
      at.theta[i] -= lr * m;
      along += at.gradient[i] * m;
      curved += (at.lambda[i] + delta) * m * m;
    }
    return std::array<double, 2>{static_cast<double>(along), static_cast<double>(curved)};
  });
}

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
  for (auto* flat : {&theta_, &momentum_, &gradient_, &lambda_})
    *flat = torch::zeros({total}, options);
  if (!theta_.is_cpu()) pulls_ = torch::zeros({total}, options);
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
  for (size_t m = 0; m < parts_.size(); ++m) {  // before any block is changed
    const auto& f = curvature.factors()[m];
    if (!f.is_complete())
      throw UsageError(fmt::format(
          "{}: the K-FAC step needs a refresh of at least as many images as inputs ({}); raise "
          "train.refresh.samples or use optimiser sgd",
          parts_[m].block->name, std::max(f.a.dimension(), f.b.dimension())));
  }
  for (size_t m = 0; m < parts_.size(); ++m) {
    auto& part = parts_[m];
    const auto& f = curvature.factors()[m];
    const auto type = part.block->weight().scalar_type();
    part.basis_b = part.shape[1] > 1 ? f.b.basis.to(type) : Tensor();
    part.basis_a = part.shape[2] > 1 ? f.a.basis.to(type) : Tensor();
    view(theta_, part).copy_(to_coordinates(part.block->value(), part));
    view(momentum_, part).copy_(to_coordinates(view(momentum_, part).clone(), part));
    view(lambda_, part).copy_(curvature.eigenvalues(m));
    part.pull = precisions[m];
    if (pulls_.defined()) view(pulls_, part).fill_(part.pull);
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

double KfacStep::prior_energy() const {
  double sum = 0;
  for (const auto& part : parts_) {
    const auto theta = theta_.narrow(0, part.begin, part.count);
    sum += 0.5 * part.pull * theta.dot(theta).item<double>();
  }
  return sum;
}

double KfacStep::step(const Loss& loss, double lr, double weight, bool average) {
  torch::NoGradGuard no_grad;
  const double before = loss(true);
  const bool measure = config_.damping_every > 0 && ++steps_ % config_.damping_every == 0;
  const double prior_before = measure ? prior_energy() : 0;
  double decrease = 0, nu = 1, slope = 0, predicted = 0;
  const auto shorten = [&] {
    nu = std::min(1.0, std::sqrt(config_.clip * static_cast<double>(samples_) /
                                 (lr * lr * decrease + 1e-300)));
  };
  const auto on_cpu = [&]<class T>(T) {
    const Coordinates<T> at{theta_.data_ptr<T>(), momentum_.data_ptr<T>(), gradient_.data_ptr<T>(),
                            lambda_.data_ptr<T>()};
    for (const auto& part : parts_)
      decrease += of_objective(at, part.begin, part.count, part.pull, damping_, weight);
    shorten();
    for (const auto& part : parts_) {
      const auto [along, curved] =
          advance(at, part.begin, part.count, part.pull, damping_, config_.momentum, nu, lr);
      slope -= lr * along;
      predicted += 0.5 * lr * lr * curved;
    }
  };
  if (!theta_.device().is_cpu()) {  // the same by torch's operations, all parts at once
    const auto sum = [](const Tensor& x) { return x.sum(torch::kFloat64).item<double>(); };
    const auto damped = lambda_ + pulls_ + damping_;
    gradient_.mul_(-weight).add_(pulls_ * theta_);
    decrease = sum(gradient_.square() / damped);
    shorten();
    momentum_.mul_(config_.momentum).add_(gradient_ / damped, nu);
    theta_.sub_(momentum_, lr);
    slope = -lr * sum(gradient_ * momentum_);
    predicted = 0.5 * lr * lr * sum((lambda_ + pulls_) * momentum_.square());
  } else if (theta_.scalar_type() == torch::kFloat64) {
    on_cpu(double());
  } else {
    on_cpu(float());
  }
  predicted += slope;
  clip_sum_ += nu;
  ++clips_;
  write_weights();
  if (measure) {
    const double change = weight * (loss(false) - before) + prior_energy() - prior_before;
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
  state["kfac.momentum"] = momentum_.to(torch::kCPU, false, /*copy=*/true);
  return state;
}

void KfacStep::set_state(const std::map<std::string, Tensor>& state) {
  damping_ = state.at("kfac.damping").item<double>();
  steps_ = state.at("kfac.steps").item<int64_t>();
  momentum_.copy_(state.at("kfac.momentum"));
}

}  // namespace evariste
