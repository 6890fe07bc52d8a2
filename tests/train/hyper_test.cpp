// Bandwidths and augmentation ranges in a training.
#include "tests/catch.h"

#include <torch/csrc/autograd/autograd.h>

#include "core/error.h"
#include "laplace/priors/builtin.h"
#include "nn/averaged.h"
#include "tests/io/temporary_folder.h"
#include "tests/train/small_training.h"

using namespace evariste;

namespace {

constexpr const char* kAnchored =
    "{ type = 'sparse_conv', out = 2, kernel = 3, padding = 1, learn_omega = true }, "
    "{ type = 'tanh' }, { type = 'avgpool', kernel = 2 }, { type = 'flatten' }, "
    "{ type = 'linear', out = 3 }";

AugmentationOptions some_ranges() {
  AugmentationOptions options;
  options.copies = 2;
  options.start = {0.1, 0.05, 0.3, 0.1, 0.05, 0.02};
  return options;
}

constexpr const char* kDegrees =
    "{ type = 'steerable_conv', group = 'C4', out = '1 regular', padding = 1, degree = 2 }, "
    "{ type = 'tanh' }, { type = 'avgpool', kernel = 2 }, { type = 'steerable_conv', out = "
    "'2 trivial', degree = 1 }, { type = 'flatten' }, { type = 'linear', out = 3 }";

double omega_of(Trainer& trainer) {
  return trainer.network().named_parameters()["0.log_omega"].item<double>();
}

}  // namespace

TEST_CASE("the evidence's gradient in augmentation ranges is its central difference",
          "[train][hyper]") {
  const auto one = network_of(
      "input = [1, 6, 6]\nlayer = [{ type = 'conv', out = 2, kernel = 3, padding = 1 }, "
      "{ type = 'tanh' }, { type = 'flatten' }, { type = 'linear', out = 3 }]");
  one->to(torch::kFloat64);
  initialise(*one, Stream(1), 1);
  const auto averaged = std::make_shared<AveragedNetwork>(*one);
  auto& network = *averaged;
  network.eval();
  const AffineAugmentation augmentation(some_ranges());
  auto data = pattern_images(12, 5);
  data.index = torch::arange(12) * 3;
  data.total = 40;
  data.view = augmentation.view(Stream(9));
  const Softmax softmax;
  Priors priors;
  for (size_t m = 0; m < named_blocks(network).size(); ++m)
    priors.emplace_back(IsotropicGaussian(0.5 + static_cast<double>(m)));
  CurvatureOptions options;
  options.batch = 5;
  const auto evidence = [&] {
    torch::NoGradGuard no_grad;
    return evaluate_evidence(fit_curvature(network, softmax, data, options), softmax, priors)
        .log_evidence;
  };
  const auto fit = fit_curvature(network, softmax, data, options);
  const auto cotangents = log_det_cotangents(fit, softmax, priors);
  auto range = augmentation.ranges();
  const auto slope = torch::autograd::grad(
      {evidence_surrogate(network, softmax, data, fit, cotangents, options)}, {range})[0];
  for (int64_t i = 0; i < 6; ++i) {
    CAPTURE(AffineAugmentation::kNames[static_cast<size_t>(i)]);
    constexpr double h = 1e-6;
    const auto move = [&](double by) {
      torch::NoGradGuard no_grad;
      range[i] += by;
    };
    move(h);
    const double above = evidence();
    move(-2 * h);
    const double below = evidence();
    move(h);
    CHECK(slope[i].item<double>() == Approx((above - below) / (2 * h)).epsilon(1e-6).margin(1e-6));
  }
}

TEST_CASE("a training with learnt bandwidths and ranges resumes bit for bit",
          "[train][hyper][resume]") {
  using Case = std::tuple<const char*, const char*, const char*>;
  const auto [optimiser, score, kind] =
      GENERATE(Case{"kfac", "evidence", "ranges"}, Case{"kfac", "loss", "ranges"},
               Case{"sgd", "evidence", "omega"}, Case{"sgd", "loss", "omega"},
               Case{"adam", "evidence", "ranges"}, Case{"kfac", "evidence", "omega"},
               Case{"kfac", "evidence", "degree"}, Case{"adam", "loss", "degree"});
  CAPTURE(optimiser, score, kind);
  SmallTraining small;
  small.train.optimiser = optimiser;
  small.train.hyper.score = score;
  small.train.hyper.samples = 20;
  small.train.hyper.steps = 2;
  small.train.epochs = 4;
  const bool has_ranges = std::string(kind) == "ranges";
  const bool has_degrees = std::string(kind) == "degree";
  small.train.hyper.alignment = small.train.hyper.previous = small.train.hyper.uniform = 0.1;
  if (has_ranges)
    small.augmentation = some_ranges();
  else
    small.layers = has_degrees ? kDegrees : kAnchored;
  const TemporaryFolder folder;
  const auto straight = small.make();
  auto resumed = small.make();
  const auto start = straight->run_epoch().symmetry;
  resumed->run_epoch();
  std::vector<double> last;
  while (!straight->is_done()) {
    const auto expected = straight->run_epoch(), found = resumed->run_epoch();
    CHECK(numbers_of(found) == numbers_of(expected));
    CHECK(found.symmetry == expected.symmetry);
    last = expected.symmetry;
    save_state(folder / "state.pt", resumed->state());
    resumed = small.make();
    resumed->set_state(load_state(folder / "state.pt"));
  }
  CHECK(straight->symmetry_names().size() == (has_ranges ? 6U : has_degrees ? 7U : 1U));
  for (size_t i = 0; i < last.size(); ++i) CHECK(last[i] != start[i]);
  CHECK(straight->outcome().symmetry == resumed->outcome().symmetry);
}

TEST_CASE("what is not learnt stays, and score none moves nothing", "[train][hyper]") {
  SmallTraining small;
  small.train.epochs = 4;
  small.train.hyper.samples = 20;
  auto options = some_ranges();
  options.learns = {false, false, true, false, false, false};
  small.augmentation = options;
  auto trainer = small.make();
  EpochRecord last;
  while (!trainer->is_done()) last = trainer->run_epoch();
  for (size_t i = 0; i < 6; ++i) CHECK((last.symmetry[i] == options.start[i]) == (i != 2));
  small.train.hyper.score = "none";
  trainer = small.make();
  while (!trainer->is_done()) last = trainer->run_epoch();
  for (size_t i = 0; i < 6; ++i) CHECK(last.symmetry[i] == options.start[i]);
}

TEST_CASE("bandwidths climb the evidence and descend the loss", "[train][hyper]") {
  SmallTraining small;
  small.layers = kAnchored;
  const auto trainer = small.make();
  trainer->run_epoch();
  auto& network = trainer->network();
  const auto all = small.data;
  CurvatureOptions options;
  const auto value = [&](const std::string& score) {
    torch::NoGradGuard no_grad;
    if (score == "loss")
      return small.likelihood->log_density(network.forward(all.x), all.y).mean().item<double>();
    return evaluate_evidence(fit_curvature(network, *small.likelihood, all, options),
                             *small.likelihood, trainer->priors())
        .log_evidence;
  };
  for (const std::string score : {"evidence", "loss"}) {
    CAPTURE(score);
    HyperConfig config;
    config.score = score;
    HyperLearner learner(network, nullptr, config);
    CHECK(learner.names() == std::vector<std::string>{"0.log_omega"});
    const double before = value(score), omega = omega_of(*trainer);
    if (score == "evidence")
      learner.climb_evidence(*small.likelihood, trainer->priors(), all, options, 1e-3);
    else
      learner.descend_loss(*small.likelihood, all, 1e-3);
    CHECK(std::abs(omega_of(*trainer) - omega) == Approx(1e-3).epsilon(1e-3));  // Adam's first
    CHECK(value(score) > before);
  }
}

TEST_CASE("penalties hold a degree at the uniform density that the loss alone would leave",
          "[train][hyper]") {
  SmallTraining small;
  small.layers = kDegrees;
  const auto trainer = small.make();
  auto& network = trainer->network();
  const auto degrees = degrees_of(network);
  REQUIRE(degrees.size() == 2);
  const auto divergences_after = [&](double weight) {
    {
      torch::NoGradGuard no_grad;
      for (auto& item : network.named_parameters())
        if (item.key().ends_with("degree")) item.value().zero_();
    }
    HyperConfig config;
    config.score = "loss";
    config.alignment = config.previous = config.uniform = weight;
    HyperLearner learner(network, nullptr, config);
    CHECK(learner.names() == std::vector<std::string>{"0.degree.0", "0.degree.1", "0.degree.2",
                                                      "0.degree.divergence", "3.degree.0",
                                                      "3.degree.1", "3.degree.divergence"});
    CHECK(learner.values().size() == 7);
    for (const double value : learner.values()) CHECK(std::abs(value) < 1e-12);
    for (int step = 0; step < 60; ++step) learner.descend_loss(*small.likelihood, small.data, 0.02);
    std::vector<double> out;
    for (const auto* degree : degrees) out.push_back(degree->divergence().item<double>());
    return out;
  };
  const auto free = divergences_after(0), held = divergences_after(10);
  for (size_t i = 0; i < 2; ++i) {
    CHECK(free[i] > 0.1);
    CHECK(held[i] < 0.02);
  }
}

TEST_CASE("the loss's reward for wide ranges and their decay are Augerino's", "[train][hyper]") {
  SmallTraining small;
  small.augmentation = some_ranges();
  const auto trainer = small.make();
  auto data = small.data;
  data.index = torch::arange(data.count());
  const AffineAugmentation augmentation(some_ranges());
  data.view = augmentation.view(Stream(2));
  HyperConfig config;
  config.score = "loss";
  config.penalty = 1e6, config.decay = 0;
  HyperLearner(trainer->network(), &augmentation, config).descend_loss(Softmax(), data, 1e-3);
  for (int64_t i = 0; i < 6; ++i)  // the reward alone: every range grows by Adam's first step
    CHECK(augmentation.ranges()[i].item<double>() ==
          Approx(some_ranges().start[static_cast<size_t>(i)] + 1e-3).epsilon(1e-4));
  config.penalty = 0, config.decay = 1e6;
  HyperLearner(trainer->network(), &augmentation, config).descend_loss(Softmax(), data, 1e-3);
  for (int64_t i = 0; i < 6; ++i)
    CHECK(augmentation.ranges()[i].item<double>() ==
          Approx(some_ranges().start[static_cast<size_t>(i)]).epsilon(1e-4));
}

TEST_CASE("a bandwidth is no part of prior and curvature", "[train][hyper]") {
  SmallTraining small;
  small.layers = kAnchored;
  const auto trainer = small.make();
  CHECK(trainer->block_names() ==
        std::vector<std::string>{"0.weight", "0.bias", "4.weight", "4.bias"});
  int64_t parameters = 0, in_blocks = 0;
  for (const auto& p : trainer->network().parameters()) parameters += p.numel();
  for (const auto& block : trainer->outcome().evidence.blocks) in_blocks += block.parameters;
  CHECK(in_blocks == parameters - 1);
}
