// A training that is saved and loaded after every epoch is the same training, bit for bit.
#include "tests/catch.h"

#include "core/error.h"
#include "tests/io/temporary_folder.h"
#include "tests/train/small_training.h"

using namespace evariste;

namespace {

void expect_same(const State& a, const State& b) {
  REQUIRE(a.size() == b.size());
  for (const auto& [name, tensor] : a) {
    CAPTURE(name);
    REQUIRE(b.count(name) == 1);
    CHECK(torch::equal(tensor, b.at(name)));
  }
}

}  // namespace

TEST_CASE("saving and loading after every epoch changes no bit", "[train][resume]") {
  using Case = std::tuple<const char*, int64_t, const char*>;
  const auto [optimiser, every, update] =
      GENERATE(Case{"kfac", 1, "profile"}, Case{"kfac", 2, "profile"}, Case{"sgd", 2, "profile"},
               Case{"kfac", 1, "newton"}, Case{"kfac", 2, "newton"}, Case{"kfac", 2, "adam"},
               Case{"kfac", 1, "adam"}, Case{"sgd", 1, "newton"}, Case{"sgd", 2, "adam"},
               Case{"adam", 1, "adam"}, Case{"adam", 2, "newton"}, Case{"kfac", 4, "none"});
  CAPTURE(optimiser, every, update);
  SmallTraining small;
  small.train.optimiser = optimiser;
  small.train.refresh.every = every;
  small.prior.update = update;
  const TemporaryFolder folder;
  const auto straight = small.make();
  auto resumed = small.make();
  while (!straight->is_done()) {
    const auto expected = numbers_of(straight->run_epoch());
    const auto found = numbers_of(resumed->run_epoch());
    CHECK(found == expected);
    save_state(folder / "state.pt", resumed->state());
    resumed = small.make();
    resumed->set_state(load_state(folder / "state.pt"));
  }
  CHECK(resumed->is_done());
  expect_same(resumed->state(), straight->state());
  const auto a = straight->outcome(), b = resumed->outcome();
  CHECK(a.evidence.log_evidence == b.evidence.log_evidence);
  CHECK(a.checks.linearised_gap == b.checks.linearised_gap);
  CHECK(log_precisions(*straight) == log_precisions(*resumed));
  CHECK(a.test.nll == b.test.nll);
}

TEST_CASE("a regression is resumed with its noise, bit for bit", "[train][resume]") {
  SmallTraining small;
  small.data.y = torch::one_hot(small.data.y, 3).to(torch::kFloat64);
  small.test.y = torch::one_hot(small.test.y, 3).to(torch::kFloat64);
  small.train.refresh.every = GENERATE(1, 2);
  small.train.keep = GENERATE("last", "best");
  const auto make = [&] {
    small.likelihood = std::make_shared<Gaussian>(0.5);
    return small.make();
  };
  const auto straight = make();
  auto resumed = make();
  while (!straight->is_done()) {
    CHECK(numbers_of(resumed->run_epoch()) == numbers_of(straight->run_epoch()));
    const auto state = resumed->state();
    resumed = make();
    resumed->set_state(state);
    CHECK(resumed->noise() == straight->noise());
  }
  CHECK(straight->noise() != 0.5);
  expect_same(resumed->state(), straight->state());
  CHECK(resumed->outcome().test.nll == straight->outcome().test.nll);
  CHECK(resumed->noise() == straight->noise());
}

TEST_CASE("a training resumes into a recovery as it would have gone through it",
          "[train][resume]") {
  SmallTraining small;
  small.train.refresh.every = GENERATE(1, 2);
  small.prior.update = GENERATE("profile", "newton", "adam");
  const auto spoil = [](Trainer& trainer) {
    torch::NoGradGuard no_grad;
    trainer.network().named_parameters()["3.weight"].fill_(
        std::numeric_limits<double>::quiet_NaN());
  };
  const auto straight = small.make();
  for (int epoch = 0; epoch < 4; ++epoch) straight->run_epoch();
  const auto resumed = small.make();
  resumed->set_state(straight->state());
  for (auto* trainer : {straight.get(), resumed.get()}) spoil(*trainer);
  while (!straight->is_done())
    CHECK(numbers_of(resumed->run_epoch()) == numbers_of(straight->run_epoch()));
  expect_same(resumed->state(), straight->state());
}

TEST_CASE("the state of another configuration is refused by the name that it lacks",
          "[train][resume]") {
  SmallTraining small;
  const auto trainer = small.make();
  trainer->run_epoch();
  auto state = trainer->state();
  state.erase("weight.3.bias");
  CHECK_THROWS_AS(small.make()->set_state(state), IoError);
  CHECK_THROWS_WITH(small.make()->set_state(state), Contains("weight.3.bias"));
}
