#include "laplace/prior_leaves.h"

#include <algorithm>
#include <cmath>

namespace evariste {

std::vector<PriorLeaf> leaves_of(const Priors& priors) {
  std::vector<PriorLeaf> leaves;
  for (size_t m = 0; m < priors.size(); ++m) {
    const auto hyperparameters = priors[m].hyperparameters();
    for (const auto& [name, tensor] : hyperparameters) {
      auto found = std::find_if(leaves.begin(), leaves.end(), [&, &t = tensor](const PriorLeaf& l) {
        return l.tensor.is_same(t);
      });
      if (found == leaves.end()) {
        leaves.push_back({tensor, {}});
        found = leaves.end() - 1;
      }
      found->blocks.push_back(m);
      found->alone = found->alone && hyperparameters.size() == 1;
    }
  }
  return leaves;
}

void Adam::step(const std::vector<Tensor>& values, const std::vector<Tensor>& gradients,
                double lowest, double highest) {
  constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;
  torch::NoGradGuard no_grad;
  if (first_.empty()) {
    for (const auto& value : values) {
      first_.push_back(torch::zeros_like(value.detach()));
      second_.push_back(torch::zeros_like(value.detach()));
    }
  }
  ++count_;
  for (size_t l = 0; l < values.size(); ++l) {
    first_[l] = kBeta1 * first_[l] + (1 - kBeta1) * gradients[l];
    second_[l] = kBeta2 * second_[l] + (1 - kBeta2) * gradients[l].square();
    const auto m = first_[l] / (1 - std::pow(kBeta1, count_));
    const auto v = second_[l] / (1 - std::pow(kBeta2, count_));
    auto value = values[l];
    value.copy_((value - learning_rate_ * m / (v.sqrt() + kEpsilon)).clamp(lowest, highest));
  }
}

std::vector<Tensor> Adam::state() const {
  std::vector<Tensor> state = {torch::tensor(count_)};
  state.insert(state.end(), first_.begin(), first_.end());
  state.insert(state.end(), second_.begin(), second_.end());
  return state;
}

void Adam::set_state(const std::vector<Tensor>& state) {
  count_ = state.at(0).item<int64_t>();
  const auto half = static_cast<int64_t>(state.size() - 1) / 2;
  first_.assign(state.begin() + 1, state.begin() + 1 + half);
  second_.assign(state.begin() + 1 + half, state.end());
}

}  // namespace evariste
