// NaN: back to the last good state with half the step size, said in the log, given up after five.
#include "tests/catch.h"

#include "core/error.h"
#include "tests/io/temporary_folder.h"
#include "tests/train/small_training.h"

using namespace evariste;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

void spoil(Trainer& trainer) {
  torch::NoGradGuard no_grad;
  trainer.network().named_parameters()["3.weight"][0][0] = kNaN;
}

size_t times(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

bool is_finite(Trainer& trainer) {
  for (const auto& weight : trainer.network().parameters())
    if (!at::isfinite(weight).all().item<bool>()) return false;
  return true;
}

}  // namespace

TEST_CASE("a weight that turns NaN costs the steps since the last good state",
          "[train][recovery]") {
  SmallTraining small;
  small.train.optimiser = GENERATE("kfac", "sgd", "adam");
  CAPTURE(small.train.optimiser);
  const auto untouched = small.make(), trainer = small.make();
  std::vector<double> rates;
  for (int epoch = 0; epoch < 3; ++epoch) {
    trainer->run_epoch();
    rates.push_back(untouched->run_epoch().learning_rate);
  }
  const double damping = small.train.kfac.damping;
  spoil(*trainer);
  const auto record = trainer->run_epoch();
  CHECK(record.epoch == 3);  // the third once more, from the state of its refresh
  CHECK(trainer->epoch() == 3);
  CHECK(std::isfinite(record.train_loss));
  CHECK(record.learning_rate == Approx(0.5 * rates[2]));
  if (small.train.optimiser == "kfac") CHECK(record.damping > damping);
  CHECK_THAT(small.log_text(), Contains("back to epoch 2") && Contains("half the step size"));
  while (!trainer->is_done()) trainer->run_epoch();
  CHECK(trainer->epoch() == 6);
  CHECK(is_finite(*trainer));
  CHECK(std::isfinite(trainer->outcome().evidence.log_evidence));
  CHECK(times(small.log_text(), "back to epoch") == 1);
}

TEST_CASE("the moments of the prior's Adam go back with the rest", "[train][recovery]") {
  SmallTraining small;
  small.prior.update = "adam";
  small.prior.hold = 1;
  small.train.refresh.every = 4;  // the good state is the one before Adam's first step
  small.train.epochs = 9;
  const auto trainer = small.make();
  trainer->run_epoch();
  trainer->run_epoch();
  const auto moments = [&] {
    int64_t count = 0;
    for (const auto& [name, tensor] : trainer->state()) count += name.starts_with("prior_adam");
    return count;
  };
  const auto fresh = moments();
  for (int epoch = 0; epoch < 3; ++epoch) trainer->run_epoch();
  trainer->run_epoch();
  CHECK(moments() > fresh);
  const auto saved = trainer->state();
  State early;
  for (const auto& [name, tensor] : saved)
    if (!name.starts_with("prior_adam")) early[name] = tensor;
  trainer->set_state(early);
  CHECK(moments() == fresh);
}

TEST_CASE("after five restarts the training gives up", "[train][recovery]") {
  SmallTraining small;
  const auto trainer = small.make();
  trainer->run_epoch();
  trainer->run_epoch();
  small.data.x.fill_(kNaN);  // no state is good enough for these images
  CHECK_THROWS_AS(trainer->run_epoch(), NumericalError);
  CHECK(times(small.log_text(), "back to epoch") == 5);
}

TEST_CASE("a failure in the burn-in goes back to the start with half the step size, of SGD alone",
          "[train][recovery]") {
  SmallTraining small;
  small.train.burn_in = 3;
  const auto untouched = small.make(), trainer = small.make();
  const double rate = untouched->run_epoch().learning_rate;
  trainer->run_epoch();
  trainer->run_epoch();
  spoil(*trainer);
  auto record = trainer->run_epoch();
  CHECK(record.epoch == 1);
  CHECK(record.learning_rate == Approx(0.5 * rate));
  CHECK_THAT(small.log_text(), Contains("back to epoch 0"));
  while (untouched->epoch() < 3) untouched->run_epoch();
  while (trainer->epoch() < 3) trainer->run_epoch();
  CHECK(trainer->run_epoch().learning_rate == untouched->run_epoch().learning_rate);
  CHECK(is_finite(*trainer));
}

TEST_CASE("a burn-in that no start helps gives up, and names its rate", "[train][recovery]") {
  SmallTraining small;
  const auto trainer = small.make();
  small.data.x.fill_(kNaN);
  CHECK_THROWS_WITH(trainer->run_epoch(),
                    Contains("5 restarts") && Contains("lower train.burn_in_lr"));
  CHECK(times(small.log_text(), "back to epoch 0") == 5);
}
