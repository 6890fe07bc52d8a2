#include "laplace/prior_fit.h"
#include "laplace/priors/builtin.h"
#include "nn/linear.h"
#include "tests/catch.h"

using namespace evariste;

TEST_CASE("the Gamma hyper-prior moves the fixed point to (gamma + 2 a)/(|theta|^2 + 2 b)",
          "[laplace][prior]") {
  torch::manual_seed(3);
  const auto layer = std::make_shared<Linear>(6, 4);
  layer->to(torch::kFloat64);
  layer->eval();
  const Samples data = {torch::randn({30, 6}, torch::kFloat64),
                        torch::randint(4, {30}, torch::kInt64), 0};
  const auto fit = fit_curvature(*layer, Softmax(), data, CurvatureOptions());
  const double shape = 2.5, rate = 0.7;
  const auto table = toml::table{{"type", "gamma-gaussian"}, {"shape", shape}, {"rate", rate}};
  const std::vector<int64_t> any = {1, 4, 6};
  const Priors priors = {make_prior({table, 1.0, any}), make_prior({table, 1.0, any})};
  fit_priors_newton(priors, *fit.curvature);
  for (const auto& block : evaluate_evidence(fit, Softmax(), priors).blocks) {
    CAPTURE(block.name);
    CHECK(block.prior_precision ==
          Approx((block.effective_dimension + 2 * shape) / (block.squared_norm + 2 * rate))
              .epsilon(1e-8));
  }
}

TEST_CASE("the Gamma hyper-prior refuses a rate that is not positive", "[laplace][prior]") {
  const auto table = toml::table{{"type", "gamma-gaussian"}, {"rate", -1.0}};
  const std::vector<int64_t> any = {1, 4, 6};
  CHECK_THROWS_WITH(make_prior({table, 1.0, any}),
                    Contains("prior.rate: expected a positive number"));
}
