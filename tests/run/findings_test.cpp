// The claims below the experiment's summary: each says, seed by seed, whether it holds.
#include "tests/catch.h"

#include "experiments/run/findings.h"

using namespace evariste;
using Catch::Matchers::Contains;

namespace {

/// A training whose checks pass, with these CONV shares (FC has the rest) and one block at its
/// fixed point.
Result training(double accuracy, double nll, double log_evidence, std::vector<double> conv) {
  Result r;
  r.samples = 100;
  r.pathways = {"conv", "fc"};
  r.accuracy = accuracy, r.nll = nll;
  r.log_evidence = r.plain_log_evidence = log_evidence;
  r.decrement = 0.01, r.gap = -0.1;
  r.alive = r.believable = true;
  r.blocks = {{"0.0.weight", 36, std::log(2.0), 10, 5, 1}};
  for (const double share : conv) r.shares_variance.push_back({share, 1 - share});
  return r;
}

std::string digit(const Run& run) { return findings({{"digit", {run}}}, "mnist", 7); }
std::string quadrant(const Run& run, const Run& of_digit) {
  return findings({{"digit", {of_digit}}, {"quadrant", {run}}}, "mnist", 7);
}

}  // namespace

TEST_CASE("rank correlation is Spearman's, with mean ranks for ties", "[findings]") {
  CHECK(rank_correlation({1, 5, 9, 20}, {-1, 0, 3, 1e9}) == Approx(1));
  CHECK(rank_correlation({1, 5, 9, 20}, {4, 3, 2, 1}) == Approx(-1));
  // Without ties 1 - 6 sum d^2/(n (n^2 - 1)): d = 0, 1, 1, 0.
  CHECK(rank_correlation({1, 2, 3, 4}, {1, 3, 2, 4}) == Approx(1 - 6.0 * 2 / (4 * 15)));
  // Ranks 0, 1.5, 1.5, 3 against 0, 1, 2, 3: covariance 4.5, variances 4.5 and 5.
  CHECK(rank_correlation({1, 2, 2, 3}, {1, 2, 3, 4}) == Approx(4.5 / std::sqrt(4.5 * 5)));
  CHECK(std::isnan(rank_correlation({1, 2}, {1, 2})));
  CHECK(std::isnan(rank_correlation({1, 2, 3}, {1, 2})));
  CHECK(std::isnan(rank_correlation({1, 1, 1}, {1, 2, 3})));
}

TEST_CASE("digit: as good as strict CONV, and CONV in every layer", "[findings]") {
  const auto conv = training(0.96, 0.13, -40, {});
  const auto good = digit({{"evidence", training(0.951, 0.17, -45, {1, 0.95})}, {"conv", conv}});
  CHECK_THAT(good, Contains("strict CONV: **1 of 1** (seed 7: -0.90, +0.040)"));
  CHECK_THAT(good, Contains("in every layer: **1 of 1** (seed 7: 1.000 0.950)"));
  const auto worse = digit({{"evidence", training(0.949, 0.13, -45, {0.94, 1})}, {"conv", conv}});
  CHECK_THAT(worse, Contains("strict CONV: **0 of 1** (seed 7 NO: -1.10, +0.000)"));
  CHECK_THAT(worse, Contains("in every layer: **0 of 1** (seed 7 NO: 0.940 1.000)"));
  CHECK_THAT(digit({{"evidence", training(0.96, 0.181, -45, {1})}, {"conv", conv}}),
             Contains("seed 7 NO: +0.00, +0.051"));
}

TEST_CASE("quadrant: CONV first, FC last, where strict CONV cannot learn", "[findings]") {
  const Run of_digit = {{"conv", training(0.96, 0.13, -40, {})}};
  const auto good = quadrant({{"evidence", training(0.9, 0.2, -70, {1, 0.95, 0.3, 0.75})},
                              {"conv", training(0.25, 1.5, -200, {})}},
                             of_digit);
  CHECK_THAT(good, Contains("accuracy: **1 of 1** (seed 7: 90.00)"));
  CHECK_THAT(good, Contains("in the last: **1 of 1** (seed 7: 1.000 0.950, FC 0.250)"));
  CHECK_THAT(good, Contains("sampling: **1 of 1** (seed 7: 25.00 against 25.30)"));
  const auto bad = quadrant({{"evidence", training(0.89, 0.2, -70, {1, 1, 1, 0.76})},
                             {"conv", training(0.26, 1.5, -200, {})}},
                            of_digit);
  CHECK_THAT(bad, Contains("accuracy: **0 of 1** (seed 7 NO: 89.00)"));
  CHECK_THAT(bad, Contains("(seed 7 NO: 1.000 1.000, FC 0.240)"));
  CHECK_THAT(bad, Contains("(seed 7 NO: 26.00 against 25.30)"));
}

TEST_CASE("what the evidence adds to the same prior held fixed", "[findings]") {
  const auto text = digit({{"evidence", training(0.95, 0.15, -45, {1, 0.6})},
                           {"map", training(0.95, 0.16, -60, {1, 0.66})}});
  CHECK_THAT(text, Contains("held fixed: **1 of 1** (seed 7: -0.010)"));
  CHECK_THAT(text, Contains(">= 0.05): **1 of 1** (seed 7: +0.000 -0.060)"));
  const auto nothing = digit({{"evidence", training(0.95, 0.16, -45, {1, 0.62})},
                              {"map", training(0.95, 0.16, -60, {1, 0.66})}});
  CHECK_THAT(nothing, Contains("held fixed: **0 of 1** (seed 7 NO: +0.000)"));
  CHECK_THAT(nothing, Contains("(seed 7 NO: +0.000 -0.040)"));
}

TEST_CASE("the fixed point is looked at in blocks that are not pruned", "[findings]") {
  auto result = training(0.95, 0.15, -45, {1});
  CHECK_THAT(digit({{"evidence", result}}),
             Contains("evidence: **1 of 1** (seed 7: 0.000 at none)"));
  result.blocks.push_back({"0.1.weight", 36, 20, 0.0, 1, 1});            // at the bound
  result.blocks.push_back({"0.1.bias", 36, std::log(2.0), 0.4, 9, 1});   // no effective parameter
  result.blocks.push_back({"2.weight", 36, std::log(2.0), 10, 5.2, 1});  // 1.04
  CHECK_THAT(digit({{"evidence", result}}), Contains("**1 of 1** (seed 7: 0.040 at 2.weight)"));
  result.blocks.push_back({"4.weight", 36, std::log(2.0), 10, 4, 1});  // 0.8
  CHECK_THAT(digit({{"evidence", result}}), Contains("**0 of 1** (seed 7 NO: 0.200 at 4.weight)"));
}

TEST_CASE("the ranking leaves out what its checks reject", "[findings]") {
  auto saturated = training(0.9, 0.8, -1, {});
  saturated.believable = false;
  saturated.decrement = 0.4;
  const auto text = digit({{"evidence", training(0.95, 0.15, -45, {1})},
                           {"conv", training(0.96, 0.14, -40, {})},
                           {"map", training(0.94, 0.2, -60, {1})},
                           {"sgd", saturated}});
  CHECK_THAT(text, Contains("1.00 trace-corrected and 1.00 plain over the 3 trainings"));
  CHECK_THAT(text, Contains("-0.20 over all 4"));
  CHECK_THAT(text, Contains("highest evidence (conv) has test NLL 0.140"));
  CHECK_THAT(text, Contains("The checks of the SGD run fail: **1 of 1** (seed 7: 0.400, -0.10)"));
  CHECK_THAT(text, Contains("| FAIL |"));
}
