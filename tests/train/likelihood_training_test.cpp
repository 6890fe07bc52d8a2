// Training for regression and for independent labels, not only for classes.
#include "tests/catch.h"

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
    small.train.burn_in_lr = 1e-3;
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

TEST_CASE("layers that treat samples together or differently each time are refused", "[train]") {
  for (const std::string layer : {"{ type = 'batchnorm' }", "{ type = 'dropout', p = 0.2 }"}) {
    SmallTraining small;
    small.layers = "{ type = 'flatten' }, { type = 'linear', out = 4 }, " + layer +
                   ", { type = 'linear', out = 3 }";
    CAPTURE(layer);
    CHECK_THROWS_WITH(small.make(), Contains("layer 2") && Contains("cannot be trained"));
  }
}
