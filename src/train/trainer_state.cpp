// What a training is resumed from.
#include "core/error.h"
#include "train/trainer.h"

namespace evariste {
namespace {

/// A copy of what may live on a GPU, as states are kept.
Tensor kept(const Tensor& tensor) {
  return tensor.detach().to(torch::kCPU, /*non_blocking=*/false, /*copy=*/true);
}

const Tensor& found_in(const State& state, const std::string& name) {
  const auto found = state.find(name);
  if (found == state.end())
    throw IoError(fmt::format("the state lacks \"{}\": it belongs to another configuration", name));
  return found->second;
}

}  // namespace

/// Weights, priors, symmetries and noise.
State Trainer::learnt() const {
  auto state = hyper_.state();
  if (likelihood_->is_regression()) state["noise"] = torch::tensor(noise(), torch::kFloat64);
  for (const auto* block : blocks_) state["weight." + block->name] = kept(block->weight());
  for (size_t m = 0; m < priors_.size(); ++m)
    for (const auto& [name, tensor] : priors_[m].hyperparameters())
      state["prior." + blocks_[m]->name + "." + name] = kept(tensor);
  return state;
}

void Trainer::set_learnt(const State& state) {
  torch::NoGradGuard no_grad;
  const auto at = [&](const std::string& name) { return found_in(state, name); };
  for (auto* block : blocks_) block->weight().copy_(at("weight." + block->name));
  for (size_t m = 0; m < priors_.size(); ++m)
    for (const auto& [name, tensor] : priors_[m].hyperparameters())
      Tensor(tensor).copy_(at("prior." + blocks_[m]->name + "." + name));
  hyper_.set_state(state);
  if (auto* gaussian = dynamic_cast<Gaussian*>(likelihood_.get())) {
    gaussian->set_noise(at("noise").item<double>());
    measure_losses();
  }
}

State Trainer::state() const {
  auto state = learnt();
  const auto moments = [&](const char* name, const std::vector<Tensor>& list) {
    for (size_t m = 0; m < list.size(); ++m)
      state[fmt::format("{}.{}", name, blocks_[m]->name)] = kept(list[m]);
  };
  moments("first", first_moments_);
  moments("second", second_moments_);
  const auto adam = adam_prior_.state();
  for (size_t i = 0; i < adam.size(); ++i)
    state[fmt::format("prior_adam.{:04}", i)] = kept(adam[i]);
  if (kfac_) state.merge(kfac_->state());
  if (const auto* kron = dynamic_cast<const KronCurvature*>(curvature_.get());
      kfac_ && kron && config_.refresh.every > 1) {
    for (size_t m = 0; m < blocks_.size(); ++m) {
      const auto& f = kron->factors()[m];
      const auto key = "factor." + blocks_[m]->name;
      state[key + ".a_values"] = f.a.values.cpu(), state[key + ".b_values"] = f.b.values.cpu();
      state[key + ".correction"] = torch::tensor(f.correction, torch::kFloat64);
      if (f.spectrum.defined()) state[key + ".spectrum"] = f.spectrum.cpu();
      if (f.a.basis.defined())
        state[key + ".a_basis"] = f.a.basis.cpu(), state[key + ".b_basis"] = f.b.basis.cpu();
    }
  }
  const std::vector<double> numbers = {prior_factor_, rate_factor_, best_log_likelihood_,
                                       far_from_mode_ ? 1.0 : 0.0, best_evidence_};
  const std::vector<int64_t> counts = {epoch_, full_epochs_, restarts_, refreshes_};
  state["numbers"] = torch::tensor(numbers, torch::kFloat64);
  state["counts"] = torch::tensor(counts, torch::kInt64);
  for (const auto& [name, tensor] : good_) state["good." + name] = tensor;
  for (const auto& [name, tensor] : best_) state["best." + name] = tensor;
  return state;
}

void Trainer::set_state(const State& state) {
  torch::NoGradGuard no_grad;
  if (kfac_) kfac_->leave();
  const auto at = [&](const std::string& name) { return found_in(state, name); };
  set_learnt(state);
  const auto moments = [&](const std::string& name, std::vector<Tensor>& list) {
    list.clear();
    for (const auto* block : blocks_) {
      const auto found = state.find(name + "." + block->name);
      if (found != state.end())
        list.push_back(found->second.to(block->weight().device(), false, /*copy=*/true));
    }
  };
  moments("first", first_moments_);
  moments("second", second_moments_);
  std::vector<Tensor> adam;
  for (const auto& [name, tensor] : state)
    if (name.starts_with("prior_adam.")) adam.push_back(tensor.clone());
  adam_prior_ = AdamPriorFit();
  if (!adam.empty()) adam_prior_.set_state(adam);
  if (kfac_) kfac_->set_state(state);
  curvature_.reset();
  if (kfac_ && state.count("factor." + blocks_[0]->name + ".a_basis")) {
    std::vector<KronFactor> factors(blocks_.size());
    for (size_t m = 0; m < blocks_.size(); ++m) {
      const auto key = "factor." + blocks_[m]->name;
      const auto there = [&](const char* name) {
        return at(key + name).to(blocks_[m]->weight().device());
      };
      auto& f = factors[m];
      f.a.values = there(".a_values"), f.b.values = there(".b_values");
      f.a.basis = there(".a_basis"), f.b.basis = there(".b_basis");
      f.correction = at(key + ".correction").item<double>();
      if (state.count(key + ".spectrum")) f.spectrum = there(".spectrum");
    }
    auto kron = std::make_shared<KronCurvature>(
        std::vector<const Block*>(blocks_.begin(), blocks_.end()), std::move(factors),
        std::vector<double>(blocks_.size(), std::numeric_limits<double>::quiet_NaN()),
        train_.count());
    kron->set_scale(likelihood_->curvature_scale());
    curvature_ = kron;
  }
  const auto numbers = at("numbers"), counts = at("counts");
  prior_factor_ = numbers[0].item<double>(), rate_factor_ = numbers[1].item<double>();
  best_log_likelihood_ = numbers[2].item<double>(), far_from_mode_ = numbers[3].item<double>() > 0;
  best_evidence_ = numbers[4].item<double>();
  epoch_ = counts[0].item<int64_t>(), full_epochs_ = counts[1].item<int64_t>();
  restarts_ = counts[2].item<int64_t>(), refreshes_ = counts[3].item<int64_t>();
  good_.clear(), best_.clear();
  for (const auto& [name, tensor] : state) {
    if (name.starts_with("good.")) good_[name.substr(5)] = tensor;
    if (name.starts_with("best.")) best_[name.substr(5)] = tensor;
  }
}

}  // namespace evariste
