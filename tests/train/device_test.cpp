// A training whose tensors are not on the CPU: the same numbers, and states that any device takes.
#include "tests/catch.h"

#include "tests/laplace/other_device.h"
#include "tests/train/small_training.h"

using namespace evariste;

TEST_CASE("a training on another device has the same numbers", "[train][device]") {
  using Case = std::tuple<const char*, int64_t, const char*>;
  const auto [optimiser, every, update] =
      GENERATE(Case{"kfac", 1, "profile"}, Case{"kfac", 2, "newton"}, Case{"kfac", 2, "adam"},
               Case{"sgd", 2, "profile"}, Case{"adam", 2, "newton"});
  CAPTURE(optimiser, every, update);
  SmallTraining here, there;
  there.device = other_device();
  for (auto* small : {&here, &there}) {
    small->train.optimiser = optimiser;
    small->train.epochs = 4;
    small->train.refresh.every = every;
    small->prior.update = update;
  }
  const auto straight = here.make();
  auto other = there.make();
  const auto check_close = [](double found, double expected) {
    CHECK((found == Approx(expected).epsilon(1e-7).margin(1e-9) ||
           (std::isnan(found) && std::isnan(expected))));
  };
  while (!straight->is_done()) {
    const auto expected = numbers_of(straight->run_epoch());
    const auto found = numbers_of(other->run_epoch());
    REQUIRE(found.size() == expected.size());
    for (size_t i = 0; i < found.size(); ++i) check_close(found[i], expected[i]);
    const auto state = other->state();  // through the CPU
    for (const auto& [name, tensor] : state) REQUIRE(tensor.device().is_cpu());
    other = there.make();
    other->set_state(state);
  }
  const auto a = straight->outcome(), b = other->outcome();
  check_close(b.evidence.log_evidence, a.evidence.log_evidence);
  check_close(b.checks.linearised_gap, a.checks.linearised_gap);
  check_close(b.test.nll, a.test.nll);
}
