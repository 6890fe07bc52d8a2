#include "laplace/prior_fit.h"
#include "laplace/priors/builtin.h"
#include "nn/linear.h"
#include "tests/catch.h"

using namespace evariste;

namespace {

/// A linear layer with random weights and its curvature.
struct Classified {
  std::shared_ptr<Linear> layer;
  Fit fit;

  Classified() {
    torch::manual_seed(3);
    layer = std::make_shared<Linear>(6, 4);
    layer->to(torch::kFloat64);
    layer->eval();
    const Samples data = {torch::randn({30, 6}, torch::kFloat64),
                          torch::randint(4, {30}, torch::kInt64), 0};
    fit = fit_curvature(*layer, Softmax(), data, CurvatureOptions());
  }
};

}  // namespace

TEST_CASE("the Gamma hyper-prior moves the fixed point to (gamma + 2 a)/(|theta|^2 + 2 b)",
          "[laplace][prior]") {
  const Classified model;
  const auto& fit = model.fit;
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

TEST_CASE("a shared Gamma hyper-prior counts once", "[laplace][prior]") {
  const Classified model;
  const auto& fit = model.fit;
  const double shape = 2.5, rate = 0.7;
  const Priors shared(2, Prior(GammaGaussian(1.0, shape, rate)));
  fit_priors_newton(shared, *fit.curvature);
  const auto evidence = evaluate_evidence(fit, Softmax(), shared);
  double effective = 2 * shape, norm = 2 * rate;
  for (const auto& block : evidence.blocks) {
    effective += block.effective_dimension;
    norm += block.squared_norm;
  }
  const double delta = evidence.blocks[0].prior_precision;
  CHECK(delta == Approx(effective / norm).epsilon(1e-8));
  const Priors plain(2, Prior(IsotropicGaussian(delta)));
  const double hyper = shape * std::log(rate * delta) - rate * delta - std::lgamma(shape);
  CHECK(evidence.log_evidence - evaluate_evidence(fit, Softmax(), plain).log_evidence ==
        Approx(hyper).epsilon(1e-10));
  const Priors adam(2, Prior(GammaGaussian(3.0, shape, rate)));
  AdamPriorFit(0.1).step(adam, *fit.curvature, 2000);
  CHECK(evaluate_evidence(fit, Softmax(), adam).blocks[0].prior_precision ==
        Approx(delta).epsilon(1e-4));
}

TEST_CASE("the Gamma hyper-prior refuses a rate that is not positive", "[laplace][prior]") {
  const auto table = toml::table{{"type", "gamma-gaussian"}, {"rate", -1.0}};
  const std::vector<int64_t> any = {1, 4, 6};
  CHECK_THROWS_WITH(make_prior({table, 1.0, any}),
                    Contains("prior.rate: expected a positive number"));
}
