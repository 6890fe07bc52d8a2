// What a fit is said to need, and its refusal.
#include "tests/catch.h"

#include "core/error.h"
#include "laplace/plan.h"
#include "tests/laplace/brute_force.h"

using namespace evariste;

namespace {

std::shared_ptr<Network> wide_network() {
  return network_of(
      "input = [1000]\nlayer = [{ type = 'linear', out = 999 }, { type = 'tanh' }, "
      "{ type = 'linear', out = 10 }]");
}

const PlannedStage& stage(const CurvaturePlan& plan, std::string_view name) {
  for (const auto& one : plan.stages)
    if (one.name == name) return one;
  throw std::runtime_error("no such stage");
}

}  // namespace

TEST_CASE("the plan counts what each structure holds", "[plan]") {
  const auto network = network_of(
      "input = [4]\nlayer = [{ type = 'linear', out = 3 }, { type = 'tanh' }, "
      "{ type = 'linear', out = 2 }]");
  network->to(torch::kFloat32);
  const Samples data{torch::randn({50, 4}), torch::zeros({50}, torch::kInt64)};
  const auto bytes = [&](Structure structure, bool bases) {
    auto options = options_of(structure);
    options.bases = bases;
    return stage(plan_curvature(*network, Softmax(), data, options), "curvature").bytes;
  };
  // J^2 + O^2 of 4x3, its bias, 3x2 and its bias.
  const double factors = 8 * (16 + 9 + 1 + 9 + 9 + 4 + 1 + 4);
  CHECK(bytes(Structure::kKron, false) == factors);
  CHECK(bytes(Structure::kKron, true) == 2 * factors);
  CHECK(bytes(Structure::kEkfac, false) == 2 * factors + 8 * 23);
  CHECK(bytes(Structure::kDiag, false) == 8 * 23);
  CHECK(bytes(Structure::kBlock, false) == 8 * (144 + 9 + 36 + 4));
  CHECK(bytes(Structure::kFull, false) == 8 * 23 * 23);
  CHECK(bytes(Structure::kLastLayer, false) == 8 * 64);
  // A forward, for the one column of two classes a backward of the upper layer, the halves of
  // symmetric factors and the squares of norms.
  auto options = options_of(Structure::kKron);
  options.bias = BiasCurvature::kJoint;
  const double forward = 18, backward = 6, factors_of = 5 * 6 + 4 * 5 + 3 * 4 + 2 * 3,
               traces = 2 * (5 + 3 + 4 + 2);
  CHECK(stage(plan_curvature(*network, Softmax(), data, options), "pass").flops ==
        50 * (2 * (forward + backward) + factors_of + traces));
  // Of the last layer alone, no backward at all; a bias has its weight's output factor.
  options = options_of(Structure::kKron);
  options.only = {"2"};
  CHECK(stage(plan_curvature(*network, Softmax(), data, options), "pass").flops ==
        50 * (2 * forward + 3 * 4 + 2 * 3 + 2 * (3 + 2) + 2 * (1 + 2)));
}

TEST_CASE("the plan counts the autocorrelation of images, not their patches", "[plan]") {
  for (const int64_t stride : {1, 2}) {
    const auto network = network_of(fmt::format(
        "input = [3, 9, 9]\nlayer = [{{ type = 'conv', out = 4, kernel = 3, stride = {}, bias = "
        "false }}, {{ type = 'global_avgpool' }}]",
        stride));
    network->to(torch::kFloat32);
    const Samples data{torch::randn({5, 3, 9, 9}), torch::zeros({5}, torch::kInt64)};
    auto options = options_of(Structure::kKron);
    options.correction = Correction::kNone;
    const double t = stride == 1 ? 49 : 16, side = 9;
    // Kernel rows 0 1 2: shifts 0 1 2 at stride 1; at stride 2 the even pair by itself, the odd one
    // by itself, and (0, 1), (1, 2), (0, 2).
    const double products = stride == 1 ? side + 1 + 2 * 2 * side : 2 * (side + 1) + 3 * 2 * side;
    CHECK(stage(plan_curvature(*network, Softmax(), data, options), "pass").flops ==
          5 * (2 * t * 4 * 27 + t * side * products + 3 * t * 4 * 5));
  }
}

TEST_CASE("a fit beyond the budget is refused with what would fit", "[plan]") {
  const auto network = wide_network();  // a million parameters: 8 TB of dense curvature
  const Samples data{torch::randn({4, 1000}), torch::zeros({4}, torch::kInt64)};
  const auto refusal = [&](Structure structure, double budget) -> std::string {
    const auto options = options_of(structure);
    const auto plan = plan_curvature(*network, Softmax(), data, options);
    try {
      expect_within(plan, budget, *network, Softmax(), data, options);
    } catch (const BudgetExceeded& error) {
      CHECK(error.needed_bytes > error.available_bytes);
      return error.what();
    }
    return "";
  };
  CHECK(refusal(Structure::kKron, 1e9).empty());
  CHECK_THAT(refusal(Structure::kFull, 1e9),
             Catch::Contains("full curvature needs about 4.08e+04 GB, 1 GB may be used: "
                             "structure ekfac fits"));
  CHECK_THAT(refusal(Structure::kBlock, 1e9), Catch::Contains("structure ekfac fits"));
  CHECK_THAT(refusal(Structure::kDiag, 1e3), Catch::Contains("no structure fits"));
}

TEST_CASE("a batch too large for the budget is to be cut", "[plan]") {
  const auto network = network_of("input = [4]\nlayer = [{ type = 'linear', out = 3 }]");
  const Samples data{torch::randn({5000, 4}), torch::zeros({5000}, torch::kInt64)};
  auto options = options_of(Structure::kFull);
  options.batch = 5000;
  const auto plan = plan_curvature(*network, Softmax(), data, options);
  CHECK_THROWS_WITH(expect_within(plan, 1e5, *network, Softmax(), data, options),
                    Catch::Contains("use a smaller batch"));
}
