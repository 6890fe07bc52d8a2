// A training by several processes is the one of a single process. The processes are threads here.
#include "tests/catch.h"

#include "core/error.h"
#include "tests/laplace/thread_processes.h"
#include "tests/train/small_training.h"

using namespace evariste;

namespace {

/// What a rank saw of a training, and where it ended.
struct Seen {
  std::vector<double> numbers;
  State state;
  std::string log;
};

/// `epochs` of `small` from `start` (empty: the beginning), then the outcome where it is done.
Seen train(SmallTraining& small, const Processes* processes, const State& start = {},
           int64_t epochs = 100) {
  Seen seen;
  const auto trainer = small.make(processes);
  if (!start.empty()) trainer->set_state(start);
  for (; !trainer->is_done() && epochs > 0; --epochs) {
    const auto r = trainer->run_epoch();
    for (const double number : {r.train_loss, r.train_accuracy, r.test_accuracy, r.test_nll,
                                r.learning_rate, r.damping, r.prior_factor})
      seen.numbers.push_back(number);
    if (r.evidence)
      for (const double number : {r.evidence->log_evidence, r.evidence->log_likelihood,
                                  r.evidence->effective_dimension()})
        seen.numbers.push_back(number);
    if (r.checks)
      for (const double number : {r.checks->newton_decrement, r.checks->linearised_gap})
        seen.numbers.push_back(number);
    for (const auto& layer : r.shares_variance)
      seen.numbers.insert(seen.numbers.end(), layer.begin(), layer.end());
  }
  if (trainer->is_done()) {
    const auto o = trainer->outcome();
    for (const double number : {o.evidence.log_evidence, o.checks.newton_decrement,
                                o.checks.linearised_gap, o.test.accuracy, o.test.nll, o.test.ece})
      seen.numbers.push_back(number);
  }
  seen.state = trainer->state();
  seen.log = small.log_text();
  return seen;
}

/// The same by `size` processes; they are told apart by nothing but their rank.
std::vector<Seen> train_by(int64_t size, const std::function<void(SmallTraining&)>& prepare,
                           const State& start = {}, int64_t epochs = 100) {
  return in_threads<Seen>(size, [&](const Processes& processes) {
    SmallTraining small;
    prepare(small);
    return train(small, &processes, start, epochs);
  });
}

void expect_equal(const State& a, const State& b) {
  REQUIRE(a.size() == b.size());
  for (const auto& [name, tensor] : a) {
    CAPTURE(name);
    CHECK(torch::equal(tensor, b.at(name)));
  }
}

}  // namespace

TEST_CASE("several processes train what one trains, with equal bits in all", "[train][processes]") {
  using Case = std::tuple<const char*, const char*, int64_t, const char*>;
  const auto [optimiser, structure, every, update] =
      GENERATE(Case{"kfac", "kron", 1, "profile"}, Case{"kfac", "ekfac", 2, "newton"},
               Case{"sgd", "kron", 2, "profile"}, Case{"adam", "kron", 2, "adam"});
  const auto size = GENERATE(2, 3);
  CAPTURE(optimiser, structure, every, update, size);
  const auto prepare = [&](SmallTraining& small) {
    small.train.optimiser = optimiser;
    small.train.refresh.structure = structure;
    small.train.refresh.every = every;
    small.prior.update = update;
  };
  SmallTraining small;
  prepare(small);
  const auto one = train(small, nullptr);
  const auto ranks = train_by(size, prepare);
  for (const auto& rank : ranks) {
    CHECK(rank.numbers == ranks[0].numbers);
    expect_equal(rank.state, ranks[0].state);
    REQUIRE(rank.numbers.size() == one.numbers.size());
    for (size_t i = 0; i < one.numbers.size(); ++i) {
      CAPTURE(i);
      // The order of sums alone differs: 1e-16 a step, which 36 steps and 5 refreshes amplify.
      CHECK(rank.numbers[i] == Approx(one.numbers[i]).epsilon(1e-8).margin(1e-10));
    }
  }
}

TEST_CASE("another number of processes goes on with a state; the same one bit for bit",
          "[train][processes]") {
  const auto prepare = [](SmallTraining& small) { small.train.refresh.every = 2; };
  const auto straight = train_by(2, prepare)[0];
  const auto half = train_by(2, prepare, {}, 3)[0].state;
  for (const auto& rank : train_by(2, prepare, half)) expect_equal(rank.state, straight.state);
  SmallTraining small;
  prepare(small);
  for (const auto& seen : {train_by(3, prepare, half)[2], train(small, nullptr, half)})
    for (const auto& [name, tensor] : straight.state) {
      CAPTURE(name);
      CHECK(torch::allclose(seen.state.at(name), tensor, 1e-7, 1e-9));
    }
}

TEST_CASE("all processes go back where the share of one is not finite", "[train][processes]") {
  const auto ranks = in_threads<Seen>(2, [](const Processes& processes) {
    SmallTraining small;
    small.train.refresh.samples = 0;  // all
    const auto trainer = small.make(&processes);
    trainer->run_epoch();
    trainer->run_epoch();
    // Images of the second half: in a refresh those of the second process alone.
    small.data.x.narrow(0, 30, 30).fill_(std::numeric_limits<double>::quiet_NaN());
    Seen seen;
    try {
      trainer->run_epoch();
    } catch (const NumericalError& error) {
      seen.log = small.log_text() + error.what();
    }
    return seen;
  });
  CHECK_THAT(ranks[0].log, Contains("network outputs") && Contains("5 restarts"));
  CHECK(ranks[0].log == ranks[1].log);
}

TEST_CASE("all processes take the state of the first", "[train][processes]") {
  const State first = {{"weight", torch::arange(6).view({2, 3})}, {"name", text_tensor("a")}};
  for (const auto& state : in_threads<State>(3, [&](const Processes& processes) {
         return broadcast(processes, processes.rank() == 0 ? first : State());
       }))
    expect_equal(state, first);
}

TEST_CASE("shares without an image are refused by the key that says how many",
          "[train][processes]") {
  TrainConfig config;
  config.batch = 7;
  CHECK_NOTHROW(expect_shareable(config, 60, 30, 7));
  CHECK_THROWS_WITH(expect_shareable(config, 60, 30, 8), Contains("train.batch") && Contains("8"));
  CHECK_THROWS_WITH(expect_shareable(config, 60, 6, 7), Contains("test images"));
  config.refresh.check_samples = 3;
  CHECK_THROWS_WITH(expect_shareable(config, 60, 30, 4), Contains("check_samples"));
}
