// Values without a meaning are refused before anything is trained.
#include "tests/catch.h"

#include "core/error.h"
#include "tests/io/temporary_folder.h"
#include "tests/train/small_training.h"

using namespace evariste;

TEST_CASE("the defaults are valid", "[train][config]") {
  CHECK_NOTHROW(expect_valid(TrainConfig()));
  CHECK_NOTHROW(expect_valid(PriorUpdateConfig()));
}

TEST_CASE("a value out of range is wrong use that names its key", "[train][config]") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<std::pair<const char*, std::function<void(TrainConfig&)>>> wrong = {
      {"train.epochs", [](auto& t) { t.epochs = 0; }},
      {"train.batch", [](auto& t) { t.batch = 0; }},
      {"train.burn_in", [](auto& t) { t.burn_in = t.epochs + 1; }},
      {"train.lr", [&](auto& t) { t.lr = nan; }},
      {"train.refresh.every", [](auto& t) { t.refresh.every = 0; }},
      {"train.refresh.checks_every", [](auto& t) { t.refresh.checks_every = 0; }},
      {"train.refresh.samples", [](auto& t) { t.refresh.samples = -1; }},
      {"train.kfac.momentum", [](auto& t) { t.kfac.momentum = 1; }},
      {"train.kfac.damping_max", [](auto& t) { t.kfac.damping_max = 1; }},
      {"train.kfac.damping_factor", [](auto& t) { t.kfac.damping_factor = 1.1; }}};
  for (const auto& [key, change] : wrong) {
    TrainConfig config;
    change(config);
    CHECK_THROWS_AS(expect_valid(config), UsageError);
    CHECK_THROWS_WITH(expect_valid(config), Contains(std::string(key) + ": expected"));
  }
  PriorUpdateConfig prior;
  prior.ramp = 0;
  CHECK_THROWS_WITH(expect_valid(prior), Contains("prior.ramp: expected"));
}

TEST_CASE("a trainer refuses what cannot be trained", "[train][config]") {
  SmallTraining small;
  SECTION("more images a step than there are") {
    small.train.batch = 61;
    CHECK_THROWS_WITH(small.make(), Contains("train.batch") && Contains("60"));
  }
  SECTION("no refresh at all") {
    small.train.refresh.every = 0;
    CHECK_THROWS_AS(small.make(), UsageError);
  }
  SECTION("labels beyond the outputs") {
    small.data.y.fill_(3);
    CHECK_THROWS_AS(small.make(), UsageError);
  }
  SECTION("one precision per entry") {
    small.prior_keys = toml::parse("type = 'diagonal-gaussian'");
    CHECK_THROWS_WITH(small.make(), Contains("one precision per block") && Contains("0.0.weight"));
  }
}
