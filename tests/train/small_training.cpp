#include "tests/train/small_training.h"

#include <cmath>

namespace evariste {

Samples pattern_images(int64_t n, uint64_t seed) {
  const auto patterns = random_tensor({3, 1, 6, 6}, 11);
  const auto y = torch::arange(n).remainder(3);
  return {patterns.index_select(0, y) + 0.8 * random_tensor({n, 1, 6, 6}, seed), y, 0};
}

SmallTraining::SmallTraining()
    : data(pattern_images(60, 12)),
      test(pattern_images(30, 13)),
      log_({.stream = &log_stream_, .is_terminal = false}) {
  train.epochs = 6;
  train.batch = 10;
  train.burn_in = 1;
  train.refresh.samples = 40;  // of 60, as trainings do
  train.refresh.check_samples = 30;
  train.refresh.check_draws = 2;
  train.refresh.checks_every = 2;
  train.kfac.damping = 10;
  train.kfac.damping_every = 2;
  prior.hold = 0;
  prior.ramp = 1;
  prior.settle = 1;
}

std::unique_ptr<Trainer> SmallTraining::make(const Processes* processes) {
  const auto network = network_of(fmt::format("input = [1, 6, 6]\nlayer = [{}]", layers));
  network->to(type);
  initialise(*network, Stream(1).split("init"), prior.lean);
  network->to(device);
  const auto typed = [&](const Samples& samples) {
    const auto y = samples.y.is_floating_point() ? samples.y.to(type) : samples.y;
    return Samples{samples.x.to(type).to(device), y.to(device), samples.total};
  };
  return std::make_unique<Trainer>(
      network, likelihood, typed(data), typed(test), train, prior, prior_keys,
      Stream(1).split("train"), log_, processes,
      augmentation ? std::make_shared<AffineAugmentation>(*augmentation) : nullptr);
}

std::vector<double> numbers_of(const EpochRecord& r) {
  std::vector<double> out = {static_cast<double>(r.epoch),
                             r.train_loss,
                             r.train_accuracy,
                             r.test_accuracy,
                             r.test_nll,
                             r.train_rmse,
                             r.test_rmse,
                             r.noise,
                             r.learning_rate,
                             r.damping,
                             r.prior_factor,
                             r.evidence ? 1.0 : 0.0,
                             r.checks ? 1.0 : 0.0};
  if (r.evidence) {
    out.insert(out.end(), {r.evidence->log_evidence, r.evidence->log_likelihood});
    for (const auto& b : r.evidence->blocks)
      out.insert(out.end(), {b.prior_precision, b.effective_dimension, b.squared_norm});
  }
  if (r.checks) out.insert(out.end(), {r.checks->newton_decrement, r.checks->linearised_gap});
  for (const auto* shares : {&r.shares_variance, &r.shares_effective})
    for (const auto& layer : *shares) out.insert(out.end(), layer.begin(), layer.end());
  for (auto& number : out)
    if (std::isnan(number)) number = -1e300;  // NaN is not equal to itself
  return out;
}

std::vector<double> log_precisions(const Trainer& trainer) {
  std::vector<double> out;
  for (const auto& prior : trainer.priors())
    out.push_back(prior.precision(torch::zeros({1, 1, 1}, torch::kFloat64)).log().item<double>());
  return out;
}

}  // namespace evariste
