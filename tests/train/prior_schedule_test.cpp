// When and how far the priors move, and how hard they pull.
#include "tests/catch.h"

#include "tests/train/small_training.h"

using namespace evariste;

namespace {

/// For each epoch, whether any prior moved in it.
std::vector<bool> moves(SmallTraining& small, double* largest = nullptr) {
  const auto trainer = small.make();
  std::vector<bool> out;
  while (!trainer->is_done()) {
    const auto before = log_precisions(*trainer);
    trainer->run_epoch();
    const auto after = log_precisions(*trainer);
    out.push_back(before != after);
    for (size_t m = 0; largest && m < before.size(); ++m)
      *largest = std::max(*largest, std::abs(after[m] - before[m]));
  }
  return out;
}

/// One weight [3, 2], all images zero: the prior alone moves it.
struct PriorAlone {
  std::shared_ptr<Network> network =
      network_of("input = [2]\nlayer = [{ type = 'linear', out = 3, bias = false }]");
  TrainConfig train;
  PriorUpdateConfig prior;
  Log log{{.quiet = true}};

  PriorAlone() {
    randomise(*network, 1);
    train.epochs = train.burn_in = 1;
    train.batch = 2;
    train.kfac.momentum = train.kfac.average = 0;
    train.kfac.damping = 3;
    train.kfac.damping_every = 0;
    train.kfac.clip = 1e12;
    prior.init = "unit";
    prior.update = "none";
  }
  /// The factor by which the weight has changed after all epochs; eight images.
  double factor() {
    const Samples zeros{torch::zeros({8, 2}, torch::kFloat64), torch::arange(8).remainder(3), 0};
    Trainer trainer(network, std::make_shared<Softmax>(), zeros, zeros, train, prior,
                    toml::parse("type = 'isotropic-gaussian'"), Stream(1), log);
    const auto before = network->parameters()[0].detach().clone();
    while (!trainer.is_done()) trainer.run_epoch();
    const auto ratio = network->parameters()[0].detach() / before;
    REQUIRE((ratio.max() - ratio.min()).item<double>() == Approx(0).margin(1e-12));
    return ratio.mean().item<double>();
  }
};

double cosine(double rate, int step, int steps) {
  return rate * 0.5 * (1 + std::cos(M_PI * step / steps));
}

}  // namespace

TEST_CASE("priors move after more than `hold` whole epochs and not in the last `settle`",
          "[train][prior]") {
  SmallTraining small;
  small.prior.update = GENERATE("profile", "newton", "adam");
  small.train.epochs = 9;
  small.train.burn_in = 2;
  small.prior.hold = 2;
  small.prior.settle = 2;
  // Epochs 3, 4 and 5 have the whole prior before it first moves, in epoch 6.
  CHECK(moves(small) == std::vector<bool>{0, 0, 0, 0, 0, 1, 1, 0, 0});
  small.prior.hold = 0;
  small.prior.settle = 0;
  CHECK(moves(small) == std::vector<bool>{0, 0, 0, 1, 1, 1, 1, 1, 1});
  small.train.refresh.every = 2;  // refreshes in epochs 3, 5, 7, 9
  CHECK(moves(small) == std::vector<bool>{0, 0, 0, 0, 1, 0, 1, 0, 1});
}

TEST_CASE("update none holds the priors fixed", "[train][prior]") {
  SmallTraining small;
  small.prior.update = "none";
  CHECK(moves(small) == std::vector<bool>(6, false));
}

TEST_CASE("with sgd the priors move from the end of the burn-in on", "[train][prior]") {
  SmallTraining small;
  small.train.optimiser = "sgd";
  small.prior.hold = 5;  // of K-FAC epochs
  small.train.burn_in = 2;
  CHECK(moves(small) == std::vector<bool>{0, 0, 1, 1, 1, 0});
}

TEST_CASE("a refresh moves a log precision by `trust` at most", "[train][prior]") {
  SmallTraining small;
  small.prior.trust = 0.05;
  double largest = 0;
  moves(small, &largest);
  CHECK(largest == Approx(0.05));
  small.prior.trust = 0.4;
  largest = 0;
  moves(small, &largest);
  CHECK(largest > 0.05);
  CHECK(largest <= 0.4 + 1e-12);
}

TEST_CASE("the prior's ramp waits for the fit, and the hold for the ramp", "[train][prior]") {
  SmallTraining small;
  small.prior.ramp = 0.01;
  const auto factors = [&] {
    std::vector<double> out;
    const auto trainer = small.make();
    while (!trainer->is_done()) out.push_back(trainer->run_epoch().prior_factor);
    return out;
  };
  small.prior.fitted = 1e-9;
  CHECK(factors() == std::vector<double>{1, 0.01, 0.01, 0.01, 0.01, 0.01});
  CHECK(moves(small) == std::vector<bool>(6, false));
  small.prior.fitted = 1e9;
  const auto rising = factors();
  CHECK(rising[1] == Approx(0.01));
  CHECK(rising[2] == Approx(0.1));
  CHECK(rising[3] == 1);
  CHECK(moves(small) == std::vector<bool>{0, 0, 0, 0, 1, 0});
}

TEST_CASE("the first precisions are those asked for", "[train][prior]") {
  SmallTraining small;
  const auto trainer = small.make();
  const auto matched = matched_precisions(trainer->network());
  for (size_t m = 0; m < matched.size(); ++m)
    CHECK(log_precisions(*trainer)[m] == Approx(std::log(matched[m])).margin(1e-12));
  small.prior.init = "unit";
  for (const double rho : log_precisions(*small.make())) CHECK(rho == 0);
  small.prior.share = "all";
  small.train.epochs = 3;
  const auto shared = small.make();
  while (!shared->is_done()) shared->run_epoch();
  for (const double rho : log_precisions(*shared)) CHECK(rho == log_precisions(*shared)[0]);
}

TEST_CASE("in a K-FAC epoch the prior pulls with its factor over itself plus the damping",
          "[train][prior][kfac]") {
  PriorAlone alone;
  alone.train.burn_in = 0;
  alone.train.epochs = 2;
  alone.prior.ramp = GENERATE(1.0, 0.25);
  double expected = 1;
  for (int step = 0; step < 8; ++step)
    expected *=
        1 - cosine(alone.train.kfac.lr, step, 8) * alone.prior.ramp / (alone.prior.ramp + 3);
  alone.prior.fitted = 1e-9;
  CHECK(alone.factor() == Approx(expected).epsilon(1e-12));
}

TEST_CASE("in the burn-in a part of the prior pulls, with sgd all of it", "[train][prior]") {
  PriorAlone alone;
  double expected = 1;
  SECTION("burn-in") {
    alone.train.burn_in_decay = 0.5;
    for (int step = 0; step < 4; ++step)
      expected /= 1 + cosine(alone.train.burn_in_lr, step, 4) * 0.5 / 8;
  }
  SECTION("sgd") {
    alone.train.optimiser = "sgd";
    // As strong as the gradient, which momentum 0.9 makes ten times larger.
    for (int step = 0; step < 4; ++step) expected /= 1 + cosine(alone.train.lr, step, 4) * 10 / 8;
  }
  CHECK(alone.factor() == Approx(expected).epsilon(1e-12));
}

TEST_CASE("penalties of residual pathway priors are precisions that stay", "[train][prior]") {
  SmallTraining small;
  small.prior.init = "penalty";
  small.prior.update = "none";
  small.prior.penalties = {1e-3, 0.05};
  const auto trainer = small.make();
  const auto expected = [](const std::string& name) {  // 2 c N: mean loss + c |theta|^2
    return std::log(2 * 60 * (name.starts_with("0.1.") ? 0.05 : 1e-3));
  };
  while (!trainer->is_done()) trainer->run_epoch();
  const auto names = trainer->block_names();
  const auto found = log_precisions(*trainer);
  for (size_t m = 0; m < names.size(); ++m) {
    CAPTURE(names[m]);
    CHECK(found[m] == Approx(expected(names[m])).epsilon(1e-12));
  }
  small.prior.penalties = {};
  CHECK_THROWS_WITH(small.make(), Contains("prior.penalties"));
}

TEST_CASE("the best refresh is what a training ends with, if it still is the best",
          "[train][prior][resume]") {
  SmallTraining small;
  small.train.optimiser = "sgd";
  small.train.lr = 0.05;
  small.train.epochs = 8;
  small.train.refresh.samples = 0;
  const auto last = small.make();
  while (!last->is_done()) last->run_epoch();
  small.train.keep = "best";
  const auto best = small.make();
  auto resumed = small.make();
  while (!best->is_done()) {
    best->run_epoch();
    resumed->run_epoch();
    const auto state = resumed->state();
    resumed = small.make();
    resumed->set_state(state);
  }
  for (auto* trainer : {last.get(), best.get(), resumed.get()}) {
    torch::NoGradGuard no_grad;  // the last epoch goes wrong
    trainer->network().named_parameters()["3.weight"].mul_(-3);
  }
  const double of_last = last->outcome().evidence.log_evidence;
  const double of_best = best->outcome().evidence.log_evidence;
  CHECK(of_best > of_last + 10);
  CHECK(resumed->outcome().evidence.log_evidence == of_best);
  CHECK(best->outcome().evidence.log_evidence == of_best);  // asked again: the same
}
