// Checks of an evidence: at a mode, quadratic where the posterior lives, not of a dead network.
#include "tests/catch.h"

#include "tests/laplace/brute_force.h"

using namespace evariste;

namespace {

/// Bayesian linear regression with two outputs and a bias, at its mode where asked for.
struct LinearModel {
  double noise = 0.5, temperature = 0.8;
  std::vector<double> precisions = {1.3, 0.4};
  Gaussian likelihood{noise};
  Samples data{random_tensor({12, 4}, 1), random_tensor({12, 2}, 2)};
  std::shared_ptr<Network> network =
      network_of("input = [4]\nlayer = [{ type = 'linear', out = 2 }]");

  Tensor mode() const {  // [2, 5], the bias last
    const auto x = torch::cat({data.x, torch::ones({12, 1}, torch::kFloat64)}, 1);
    auto prior = torch::full({5}, precisions[0], torch::kFloat64);
    prior[4] = precisions[1];
    const auto scale = 1 / (noise * noise * temperature);
    return at::linalg_solve(scale * x.t().mm(x) + torch::diag(prior), scale * x.t().mm(data.y)).t();
  }
  void set(const Tensor& theta) const {
    set_parameters(*network, {theta.narrow(1, 0, 4), theta.select(1, 4)});
  }
  /// -log p(D)/tau + 1/2 theta^T P0 theta
  double objective() const {
    torch::NoGradGuard no_grad;
    auto sum = -likelihood.log_density(network->forward(data.x), data.y).sum() / temperature;
    for (size_t m = 0; m < 2; ++m)
      sum = sum + 0.5 * precisions[m] * network->parameters()[m].square().sum();
    return sum.item<double>();
  }
  Checks checks(const CurvatureOptions& options, int64_t draws, int64_t batch = 5) const {
    const auto fit = fit_curvature(*network, likelihood, data, options);
    return check_evidence(*network, likelihood, data, fit,
                          layerwise_priors(*fit.curvature, precisions), temperature, Stream(3),
                          batch, draws);
  }
};

}  // namespace

TEST_CASE("at the mode of a linear model the decrement is 0 and there is no gap", "[checks]") {
  const LinearModel model;
  model.set(model.mode());
  for (const auto structure : {Structure::kFull, Structure::kKron, Structure::kEkfac}) {
    CAPTURE(static_cast<int>(structure));
    // Kronecker curvature leaves out what weight and bias share; its own draws are narrower or
    // wider, so only the full curvature has no gap.
    const auto checks = model.checks(options_of(structure), 2000);
    CHECK(checks.newton_decrement == Approx(0).margin(1e-20));
    CHECK(checks.alive);
    if (structure != Structure::kFull) continue;
    // Var of a draw's log-likelihood: 1/2 sum r^2 tau^2 of the quadratic, g^T P^-1 g of the linear
    // part, at most tau^2 gamma/2 and a scatter.
    const auto fit =
        fit_curvature(*model.network, model.likelihood, model.data, options_of(structure));
    const auto e =
        evaluate_evidence(fit, model.likelihood, layerwise_priors(*fit.curvature, model.precisions),
                          model.temperature);
    const auto deviation = std::sqrt((0.5 * e.effective_dimension() + e.scatter) / 2000) / 12;
    CHECK(checks.linearised_gap == Approx(0).margin(4 * deviation));
    CHECK(deviation < 0.01);
    CHECK(checks.believable);
  }
}

TEST_CASE("away from the mode of a quadratic the decrement is what is left to gain", "[checks]") {
  const LinearModel model;
  model.set(model.mode());
  const auto lowest = model.objective();
  model.set(model.mode() + 0.5 * random_tensor({2, 5}, 4));
  const auto checks = model.checks(options_of(Structure::kFull), 2);
  CHECK(checks.newton_decrement == Approx((model.objective() - lowest) / 12));
  CHECK_FALSE(checks.believable);
}

TEST_CASE("checks do not depend on chunks, nor on how blocks are joined", "[checks]") {
  const LinearModel model;
  model.set(model.mode() + 0.1);
  const auto options = options_of(Structure::kFull);
  const auto one = model.checks(options, 3, 12), other = model.checks(options, 3, 5);
  CHECK(one.newton_decrement == Approx(other.newton_decrement));
  CHECK(one.linearised_gap == Approx(other.linearised_gap));
  auto joint = options;
  joint.bias = BiasCurvature::kJoint;
  const auto fit = fit_curvature(*model.network, model.likelihood, model.data, joint);
  const auto apart = fit_curvature(*model.network, model.likelihood, model.data, options);
  const auto run = [&](const Fit& f) {
    return check_evidence(*model.network, model.likelihood, model.data, f,
                          layerwise_priors(*f.curvature, 0.7), 1.0, Stream(3), 5, 500);
  };
  CHECK(run(fit).newton_decrement == Approx(run(apart).newton_decrement));
  CHECK(run(fit).linearised_gap == Approx(run(apart).linearised_gap).margin(0.1));
}

TEST_CASE("the gap is that of draws through autograd's Jacobian", "[checks]") {
  const auto network = network_of(
      "input = [3]\nlayer = [{ type = 'linear', out = 4 }, { type = 'tanh' }, "
      "{ type = 'linear', out = 3 }]");
  randomise(*network, 1);
  const Samples data{random_tensor({7, 3}, 2), random_labels(7, 3, 3)};
  const auto fit = fit_curvature(*network, Softmax(), data, {});
  const auto priors = layerwise_priors(*fit.curvature, 0.6);
  const double temperature = 0.9;
  const auto checks =
      check_evidence(*network, Softmax(), data, fit, priors, temperature, Stream(3), 4, 5);
  const auto precisions = precisions_of(priors, *fit.curvature);
  const auto jacobian = autograd_jacobian(*network, data.x, fit.curvature->blocks());
  torch::NoGradGuard no_grad;
  const auto f = network->forward(data.x);
  double sampled = 0, effective = 0;
  for (uint64_t s = 0; s < 5; ++s) {
    std::vector<Tensor> flat;
    for (const auto& part : fit.curvature->sample(precisions, Stream(3).split(s)))
      flat.push_back(part.flatten());
    sampled +=
        Softmax().log_density(f + jacobian.matmul(torch::cat(flat)), data.y).sum().item<double>();
  }
  for (const auto& block : fit.curvature->log_det(precisions)) effective += block.effective;
  const auto predicted = fit.log_likelihood - 0.5 * temperature * effective;
  CHECK(checks.linearised_gap == Approx((sampled / 5 - predicted) / 7));
}

TEST_CASE("a dead network is not alive, whatever its evidence", "[checks]") {
  const auto network = network_of(
      "input = [3]\nlayer = [{ type = 'linear', out = 4 }, { type = 'relu' }, "
      "{ type = 'linear', out = 3 }]");
  const Samples data{random_tensor({30, 3}, 2), random_labels(30, 3, 3)};
  const auto zeros = [](at::IntArrayRef shape) { return torch::zeros(shape, torch::kFloat64); };
  const auto alive = [&](const Tensor& bias, double hidden) {
    set_parameters(*network,
                   {random_tensor({4, 3}, 5), zeros({4}) + hidden, random_tensor({3, 4}, 6), bias});
    const auto fit = fit_curvature(*network, Softmax(), data, {});
    return check_evidence(*network, Softmax(), data, fit, layerwise_priors(*fit.curvature, 1.0),
                          1.0, Stream(3), 250);
  };
  const auto frequencies = torch::bincount(data.y, {}, 3).to(torch::kFloat64).log();
  // Constant outputs, the best of them included: every hidden unit is off.
  for (const auto& bias : {zeros({3}), frequencies, frequencies + 0.1}) {
    const auto checks = alive(bias, -100);
    CHECK_FALSE(checks.alive);
    CHECK_FALSE(checks.believable);
  }
}

TEST_CASE("the gap may be looked for in a part of the data, the decrement is of all", "[checks]") {
  const LinearModel model;
  model.set(model.mode() + 0.1);
  const auto fit =
      fit_curvature(*model.network, model.likelihood, model.data, options_of(Structure::kFull));
  const auto priors = layerwise_priors(*fit.curvature, model.precisions);
  const auto gradient = log_likelihood_gradient(*model.network, model.likelihood, model.data,
                                                fit.curvature->blocks(), 5);
  const auto run = [&](const Samples& part) {
    return check_evidence(*model.network, model.likelihood, model.data, gradient, part, fit, priors,
                          model.temperature, Stream(3), 5, 4);
  };
  const auto part_of_data = [&](int64_t begin, int64_t count) {
    return Samples{model.data.x.narrow(0, begin, count), model.data.y.narrow(0, begin, count)};
  };
  const auto whole = run(model.data), head = run(part_of_data(0, 4)),
             tail = run(part_of_data(4, 8));
  CHECK(head.newton_decrement == Approx(whole.newton_decrement));
  CHECK(newton_decrement(gradient, model.likelihood, fit, priors, model.temperature) ==
        Approx(whole.newton_decrement));
  CHECK((4 * head.linearised_gap + 8 * tail.linearised_gap) / 12 == Approx(whole.linearised_gap));
  CHECK(head.linearised_gap != Approx(whole.linearised_gap));
}

TEST_CASE("thresholds decide what is believable", "[checks]") {
  const LinearModel model;
  model.set(model.mode() + 0.05);
  const auto fit =
      fit_curvature(*model.network, model.likelihood, model.data, options_of(Structure::kFull));
  const auto gradient = log_likelihood_gradient(*model.network, model.likelihood, model.data,
                                                fit.curvature->blocks(), 5);
  const auto run = [&](const Believable& thresholds) {
    return check_evidence(*model.network, model.likelihood, model.data, gradient, model.data, fit,
                          layerwise_priors(*fit.curvature, model.precisions), model.temperature,
                          Stream(3), 250, 8, thresholds)
        .believable;
  };
  CHECK(run({100, -100}));
  CHECK_FALSE(run({1e-9, -100}));
  CHECK_FALSE(run({100, 100}));
}
