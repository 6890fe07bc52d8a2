// Training for regression and for independent labels, not only for classes.
#include "tests/catch.h"

#include <cmath>
#include <numbers>

#include "tests/train/small_training.h"

using namespace evariste;

TEST_CASE("K-FAC training learns with every likelihood, and the whole prior comes in", "[train]") {
  SmallTraining small;
  small.train.epochs = 12;
  small.prior.ramp = 0.1;
  const auto labels = torch::one_hot(small.data.y, 3).to(torch::kFloat64);
  const auto test_labels = torch::one_hot(small.test.y, 3).to(torch::kFloat64);
  std::string fisher = "exact";
  SECTION("softmax") {}
  SECTION("Gaussian with small noise") {
    small.likelihood = std::make_shared<Gaussian>(0.5);
    small.data.y = labels, small.test.y = test_labels;
  }
  SECTION("Gaussian with a density above one") {
    small.likelihood = std::make_shared<Gaussian>(0.1);
    small.data.y = labels, small.test.y = test_labels;
  }
  SECTION("Bernoulli") {
    small.likelihood = std::make_shared<Bernoulli>();
    small.data.y = labels, small.test.y = test_labels;
    fisher = "mc";
  }
  small.train.refresh.fisher = fisher;
  const auto trainer = small.make();
  const double first = trainer->run_epoch().train_loss;
  EpochRecord last;
  while (!trainer->is_done()) last = trainer->run_epoch();
  CHECK(last.train_loss < first);
  CHECK(last.prior_factor == 1);
  CHECK(small.log_text().find("back to epoch") == std::string::npos);
  const auto outcome = trainer->outcome();
  CHECK(std::isfinite(outcome.evidence.log_evidence));
  CHECK(outcome.checks.alive);
}

namespace {

/// Targets of a linear map of the images, with noise of this standard deviation.
void set_regression(SmallTraining& small, double noise) {
  small.layers = "{ type = 'flatten' }, { type = 'linear', out = 2 }";
  const auto map = random_tensor({36, 2}, 41) / 6;
  const auto measured = [&](Samples& set, int64_t n, uint64_t seed) {
    set = pattern_images(n, seed);
    set.y = set.x.flatten(1).matmul(map) + noise * random_tensor({n, 2}, seed + 1);
  };
  measured(small.data, 300, 42);
  measured(small.test, 60, 44);
  small.train.epochs = 20;
  small.train.batch = 30;
  small.train.refresh.samples = 0;
  small.train.refresh.fisher = "exact";
  small.prior.settle = 0;
}

std::unique_ptr<Trainer> trained(SmallTraining& small, double start) {
  small.likelihood = std::make_shared<Gaussian>(start);
  auto trainer = small.make();
  while (!trainer->is_done()) trainer->run_epoch();
  return trainer;
}

}  // namespace

TEST_CASE("the evidence finds the noise of targets, wherever it starts", "[train]") {
  const double noise = GENERATE(0.05, 0.4), start = GENERATE(0.1, 1.0);
  CAPTURE(noise, start);
  SmallTraining small;
  set_regression(small, noise);
  const auto trainer = trained(small, start);
  // 600 targets less some 74 effective parameters: a standard deviation of 3 % of the noise.
  CHECK(trainer->noise() == Approx(noise).epsilon(0.12));
  const auto outcome = trainer->outcome();
  CHECK(outcome.test.rmse < 1.3 * noise);
  CHECK(std::isnan(outcome.test.accuracy));
  // MacKay's fixed point: N C - gamma = S/sigma^2, and log p = -S/(2 sigma^2) + normaliser.
  const double s = 2 * (300 * -std::log(2 * std::numbers::pi * std::pow(trainer->noise(), 2)) -
                        outcome.evidence.log_likelihood);
  CHECK(s == Approx(600 - outcome.evidence.effective_dimension()).epsilon(0.02));
}

TEST_CASE("a noise that is not learnt stays, and so it does where the prior is held", "[train]") {
  SmallTraining small;
  set_regression(small, 0.2);
  SECTION("not learnt") { small.train.noise.learn = false; }
  SECTION("MAP") { small.prior.update = "none"; }
  CHECK(trained(small, 0.7)->noise() == 0.7);
}

TEST_CASE("one refresh moves the noise no further than trust says", "[train]") {
  SmallTraining small;
  set_regression(small, 0.05);
  small.prior.trust = 0.5;
  small.likelihood = std::make_shared<Gaussian>(1.0);
  const auto trainer = small.make();
  double before = 1;
  while (!trainer->is_done()) {
    const double now = trainer->run_epoch().noise;
    CHECK(std::abs(std::log(now / before)) <= 0.25 + 1e-12);
    before = now;
  }
  CHECK(before < 0.5);
}

TEST_CASE("layers that treat samples together or differently each time are refused", "[train]") {
  for (const std::string layer : {"{ type = 'batchnorm' }", "{ type = 'dropout', p = 0.2 }"}) {
    SmallTraining small;
    small.layers = "{ type = 'flatten' }, { type = 'linear', out = 4 }, " + layer +
                   ", { type = 'linear', out = 3 }";
    CAPTURE(layer);
    CHECK_THROWS_WITH(small.make(), Contains("layer 2") && Contains("cannot be trained"));
  }
}
