// Tuning the prior by grids and by held-out data.
#include "tests/catch.h"

#include "core/error.h"
#include "laplace/low_rank.h"
#include "laplace/prior_fit.h"
#include "laplace/tuning.h"
#include "tests/laplace/brute_force.h"

using namespace evariste;

namespace {

struct Task {
  std::shared_ptr<Network> network = network_of(
      "input = [1, 4, 4]\nlayer = [{ type = 'conv', out = 2, kernel = 3 }, { type = 'tanh' }, "
      "{ type = 'flatten' }, { type = 'linear', out = 3 }]");
  Posterior posterior;
  Samples held;

  Task(const std::string& structure, const std::string& likelihood, int64_t n = 12) {
    randomise(*network, 1);
    posterior.likelihood = make_likelihood(likelihood, likelihood == "regression" ? 0.4 : 1.0);
    posterior.temperature = 0.7;
    const auto labels = [&](int64_t count, uint64_t seed) {
      if (likelihood == "classification") return random_labels(count, 3, seed);
      const auto y = random_tensor({count, 3}, seed);
      return likelihood == "regression" ? y : (y > 0).to(torch::kFloat64);
    };
    const Samples data{random_tensor({n, 1, 4, 4}, 2), labels(n, 4)};
    held = {random_tensor({7, 1, 4, 4}, 5), labels(7, 6)};
    if (structure == "lowrank") {
      LowRankOptions options;
      options.rank = 9;
      posterior.fit = fit_low_rank(*network, *posterior.likelihood, data, options);
    } else {
      CurvatureOptions options;
      options.structure = structure == "ekfac"       ? Structure::kEkfac
                          : structure == "diag"      ? Structure::kDiag
                          : structure == "block"     ? Structure::kBlock
                          : structure == "full"      ? Structure::kFull
                          : structure == "lastlayer" ? Structure::kLastLayer
                                                     : Structure::kKron;
      posterior.fit = fit_curvature(*network, *posterior.likelihood, data, options);
    }
    std::vector<double> precisions;
    for (size_t m = 0; m < posterior.fit.curvature->blocks().size(); ++m)
      precisions.push_back(0.5 + 0.4 * static_cast<double>(m));
    posterior.priors = layerwise_priors(*posterior.fit.curvature, precisions);
  }

  Validation validation(Link link) const {
    Validation out{*network, held};
    out.link = link;
    out.stream = Stream(3);
    out.draws = 20;
    out.batch = 3;
    return out;
  }
};

void move(const Tensor& leaf, double step) {
  torch::NoGradGuard no_grad;
  Tensor(leaf).add_(step);
}

void set_log_precision(const Prior& prior, double value) {
  torch::NoGradGuard no_grad;
  Tensor(prior.hyperparameters()[0].second).fill_(value);
}

double central(const std::function<void(double)>& shift, const std::function<double()>& value) {
  constexpr double kStep = 1e-4;
  shift(kStep);
  const double up = value();
  shift(-2 * kStep);
  const double down = value();
  shift(kStep);
  return (up - down) / (2 * kStep);
}

struct Case {
  const char* likelihood;
  Link link;
};
const std::vector<Case> kCases = {{"classification", Link::kProbit}, {"classification", Link::kMc},
                                  {"classification", Link::kBridge}, {"bernoulli", Link::kProbit},
                                  {"bernoulli", Link::kMc},          {"regression", Link::kProbit}};

}  // namespace

TEST_CASE("the gradient of the validation NLL agrees with central differences", "[tuning]") {
  for (const auto* structure : {"kron", "ekfac", "diag", "block", "full", "lastlayer", "lowrank"}) {
    for (const auto& [likelihood, link] : kCases) {
      for (const int64_t n : {2, 12}) {  // thin bases and complete ones
        if (n == 2 && std::string_view(structure) != "kron") continue;
        CAPTURE(structure, likelihood, static_cast<int>(link), n);
        Task task(structure, likelihood, n);
        auto& posterior = task.posterior;
        const auto validation = task.validation(link);
        const auto value = [&] { return validation_nll(posterior, validation); };
        const auto gradient = validation_gradient(posterior, validation);
        CHECK(gradient.value == Approx(value()).epsilon(1e-13));
        for (size_t m = 0; m < posterior.priors.size(); ++m) {
          const auto leaf = posterior.priors[m].hyperparameters()[0].second;
          CHECK(gradient.log_precisions[m] ==
                Approx(central([&](double step) { move(leaf, step); }, value))
                    .epsilon(1e-5)
                    .margin(1e-8));
        }
        CHECK(gradient.log_temperature ==
              Approx(central([&](double step) { posterior.temperature *= std::exp(step); }, value))
                  .epsilon(1e-5)
                  .margin(1e-8));
        auto* gaussian = dynamic_cast<Gaussian*>(posterior.likelihood.get());
        if (!gaussian) {
          CHECK(gradient.log_noise == 0);
          continue;
        }
        CHECK(gradient.log_noise ==
              Approx(
                  central(
                      [&](double step) { gaussian->set_noise(gaussian->noise() * std::exp(step)); },
                      value))
                  .epsilon(1e-5));
      }
    }
  }
}

TEST_CASE("the log density of a prediction is what the metrics average", "[tuning]") {
  for (const auto& [likelihood, link] : kCases) {
    CAPTURE(likelihood, static_cast<int>(link));
    const Task task("kron", likelihood);
    task.posterior.set_scale();
    const auto outputs = output_distribution(*task.network, task.held.x,
                                             *task.posterior.fit.curvature, task.posterior.priors);
    const auto& of = *task.posterior.likelihood;
    const auto nll = -predictive_log_density(outputs, of, link, task.held.y, Stream(3), 20)
                          .mean()
                          .item<double>();
    CHECK(validation_nll(task.posterior, task.validation(link)) == Approx(nll).epsilon(1e-13));
    if (of.is_regression()) {
      const auto variance = outputs.covariance.diagonal(0, 1, 2) + 1 / of.curvature_scale();
      CHECK(nll == Approx(regression_metrics(outputs.mean, variance, task.held.y).nll));
      continue;
    }
    const auto p = predict(outputs, of, link, Stream(3), 20);
    CHECK(nll == Approx((of.name() == "classification" ? classification_metrics(p, task.held.y)
                                                       : bernoulli_metrics(p, task.held.y))
                            .nll));
  }
}

TEST_CASE("a label far from the prediction has a finite log density", "[tuning]") {
  const OutputDistribution outputs{torch::tensor({{2000.0, -2000.0, 0.0}}, torch::kFloat64),
                                   1e-6 * torch::eye(3, torch::kFloat64).unsqueeze(0)};
  const auto y = torch::tensor({1});
  CHECK(predictive_log_density(outputs, Softmax(), Link::kMap, y).item<double>() == Approx(-4000));
  CHECK(predictive_log_density(outputs, Softmax(), Link::kProbit, y).item<double>() ==
        Approx(-4000).epsilon(1e-5));
  CHECK(predictive_log_density(outputs, Softmax(), Link::kMc, y).item<double>() ==
        Approx(-4000).epsilon(1e-4));
  // log alpha_1/alpha_0 = f_1 - f_0 for equal variances.
  CHECK(predictive_log_density(outputs, Softmax(), Link::kBridge, y).item<double>() ==
        Approx(-4000).epsilon(1e-2));
}

TEST_CASE("validation NLL and grid of one weight, by hand", "[tuning]") {
  // y = w x + noise, w ~ N(0, 1/delta): V = x^2 / (sum x^2/(sigma^2 tau) + delta).
  const auto network =
      network_of("input = [1]\nlayer = [{ type = 'linear', out = 1, bias = false }]");
  randomise(*network, 1);
  const auto x = random_tensor({6, 1}, 2), y = random_tensor({6, 1}, 3);
  const auto xv = 3 * random_tensor({4, 1}, 4), yv = 5 * random_tensor({4, 1}, 5);
  constexpr double kNoise = 0.5, kTemperature = 1.6;
  Posterior posterior;
  posterior.likelihood = make_likelihood("regression", kNoise);
  posterior.temperature = kTemperature;
  posterior.fit = fit_curvature(*network, *posterior.likelihood, {x, y}, {});
  posterior.priors = layerwise_priors(*posterior.fit.curvature, 1.0);
  const double w = network->parameters()[0].item<double>();
  const double h = x.square().sum().item<double>() / (kNoise * kNoise * kTemperature);
  const auto by_hand = [&](double delta) {
    const auto variance = xv.square() / (h + delta) + kNoise * kNoise;
    return (0.5 * ((yv - w * xv).square() / variance + (2 * M_PI * variance).log()))
        .mean()
        .item<double>();
  };
  const auto grid = log_grid(1e-3, 1e5, 9);
  REQUIRE(grid.size() == 9);
  CHECK(grid[1] == Approx(1e-2));
  CHECK(grid[8] == Approx(1e5));
  const auto tuning = grid_by_validation(posterior, grid, {*network, {xv, yv}});
  double least = 1e300;
  for (size_t i = 0; i < grid.size(); ++i) {
    CHECK(tuning.path[i].precisions[0] == Approx(grid[i]));
    CHECK(tuning.path[i].value == Approx(by_hand(grid[i])).epsilon(1e-12));
    least = std::min(least, by_hand(grid[i]));
  }
  CHECK(tuning.path[tuning.best].value == Approx(least));
  CHECK(precisions_of(posterior.priors, *posterior.fit.curvature)[0].item<double>() ==
        Approx(grid[tuning.best]));
}

TEST_CASE("a grid by the evidence looks at the evidence, with or without the noise", "[tuning]") {
  const auto grid = log_grid(1e-2, 1e3, 6);
  Task task("kron", "regression", 40);
  auto& posterior = task.posterior;
  const auto outputs = task.network->outputs();
  const auto tuning = grid_by_evidence(posterior, grid, outputs);
  for (size_t i = 0; i < grid.size(); ++i) {
    const auto priors = layerwise_priors(*posterior.fit.curvature, grid[i]);
    const auto e = evaluate_evidence(posterior.fit, *posterior.likelihood, priors, 0.7);
    CHECK(tuning.path[i].value == Approx(e.log_evidence).epsilon(1e-13));
    CHECK(e.log_evidence <= tuning.path[tuning.best].value + 1e-9);
  }
  CHECK(posterior.evidence().log_evidence == Approx(tuning.path[tuning.best].value).epsilon(1e-13));
  CHECK(tuning.path[0].noise == 0.4);

  const auto profile = grid_by_evidence(posterior, grid, outputs, true);
  for (size_t i = 0; i < grid.size(); ++i) {
    const auto& point = profile.path[i];
    CHECK(point.value >= tuning.path[i].value - 1e-9);
    // A fit of its own at that noise, where the evidence is stationary in it.
    const auto evidence_at = [&](double noise) {
      const Gaussian likelihood(noise);
      const Samples data{random_tensor({40, 1, 4, 4}, 2), random_tensor({40, 3}, 4)};
      const auto fit = fit_curvature(*task.network, likelihood, data, {});
      const auto priors = layerwise_priors(*fit.curvature, grid[i]);
      return evaluate_evidence(fit, likelihood, priors, 0.7).log_evidence;
    };
    CHECK(evidence_at(point.noise) == Approx(point.value).epsilon(1e-11));
    CHECK(std::abs(evidence_at(point.noise * 1.001) - evidence_at(point.noise / 1.001)) < 1e-3);
    CHECK(evidence_at(point.noise * 1.3) < point.value);
  }
  Task without("kron", "bernoulli");
  CHECK_THROWS_AS(grid_by_evidence(without.posterior, grid, 3, true), UsageError);
}

TEST_CASE("descent ends where a fine grid has its minimum, and never worse than it starts",
          "[tuning]") {
  for (const auto& [likelihood, link] : kCases) {
    CAPTURE(likelihood, static_cast<int>(link));
    Task task("kron", likelihood, 30);
    auto& posterior = task.posterior;
    const Prior one(IsotropicGaussian(1.0));
    posterior.priors.assign(posterior.priors.size(), one);
    const auto validation = task.validation(link);
    const auto grid = grid_by_validation(posterior, log_grid(5e-5, 4e8, 300), validation);
    const double best = std::log(grid.path[grid.best].precisions[0]);
    set_log_precision(one, best > 18 ? best - 1.5 : best + 1.5);
    const double start = validation_nll(posterior, validation);
    DescentOptions options;
    options.steps = 150;
    const auto descent = descend_validation(posterior, validation, 3, options);
    CHECK(descent.path.size() == 151);
    CHECK(descent.path[0].value == Approx(start));
    const double end = validation_nll(posterior, validation);
    CHECK(end == Approx(descent.path[descent.best].value).epsilon(1e-13));
    CHECK(end <= start);
    CHECK(end < grid.path[grid.best].value + 1e-4);
  }
}

TEST_CASE("descent moves precision, noise or temperature to where no slope is left", "[tuning]") {
  // At a bound the slope may point outwards.
  const auto expect_still = [](double rho, double slope) {
    CAPTURE(rho, slope);
    CHECK((rho >= kLowestLogPrecision && rho <= kHighestLogPrecision));
    CHECK((slope < 1e-3 || rho < kLowestLogPrecision + 1e-9));
    CHECK((slope > -1e-3 || rho > kHighestLogPrecision - 1e-9));
  };
  for (const bool with_noise : {true, false}) {
    CAPTURE(with_noise);
    Task task("kron", "regression", 30);
    auto& posterior = task.posterior;
    const Prior one(IsotropicGaussian(1.0));
    posterior.priors.assign(posterior.priors.size(), one);
    const auto validation = task.validation(Link::kProbit);
    DescentOptions options;
    options.steps = 3000;
    options.learning_rate = 0.5;  // with the temperature the slope fades slowly towards a bound
    (with_noise ? options.noise : options.temperature) = true;
    const auto start = validation_nll(posterior, validation);
    descend_validation(posterior, validation, 3, options);
    const auto gradient = validation_gradient(posterior, validation);
    CHECK(gradient.value < start);
    double slope = 0;  // of the one precision of all blocks
    for (const auto block : gradient.log_precisions) slope += block;
    expect_still(one.hyperparameters()[0].second.item<double>(), slope);
    const double noise = dynamic_cast<const Gaussian&>(*posterior.likelihood).noise();
    CHECK((noise == 0.4) != with_noise);
    CHECK((posterior.temperature == 0.7) == with_noise);
    if (with_noise)
      expect_still(-2 * std::log(noise), -0.5 * gradient.log_noise);
    else
      expect_still(-std::log(posterior.temperature), -gradient.log_temperature);
    // The log-likelihood of the fit went along with the noise.
    const Samples data{random_tensor({30, 1, 4, 4}, 2), random_tensor({30, 3}, 4)};
    const auto fit = fit_curvature(*task.network, *posterior.likelihood, data, {});
    CHECK(posterior.fit.log_likelihood == Approx(fit.log_likelihood).epsilon(1e-10));
    CHECK(posterior.fit.normaliser == Approx(fit.normaliser).epsilon(1e-10));
  }
}

TEST_CASE("tuning refuses what says nothing, and never goes on from infinity", "[tuning]") {
  Task task("kron", "classification");
  CHECK_THROWS_AS(validation_nll(task.posterior, task.validation(Link::kMap)), UsageError);
  CHECK_THROWS_AS(
      validation_nll(Task("kron", "bernoulli").posterior, task.validation(Link::kBridge)),
      UsageError);
  CHECK_THROWS_AS(validation_nll(Task("kron", "regression").posterior, task.validation(Link::kMc)),
                  UsageError);
  for (const auto& [low, high, points] :
       {std::tuple(1e-9, 1.0, 5), {1.0, 1e12, 5}, {2.0, 1.0, 5}, {1.0, 2.0, 1}})
    CHECK_THROWS_AS(log_grid(low, high, points), UsageError);
  DescentOptions noise;
  noise.noise = true;
  CHECK_THROWS_AS(descend_validation(task.posterior, task.validation(Link::kProbit), 3, noise),
                  UsageError);
  Task entries("diag", "classification");
  for (size_t m = 0; m < entries.posterior.priors.size(); ++m)
    entries.posterior.priors[m] =
        Prior(DiagonalGaussian(1.0, entries.posterior.fit.curvature->blocks()[m]->value().sizes()));
  CHECK_THROWS_AS(descend_validation(entries.posterior, entries.validation(Link::kProbit), 3),
                  UsageError);

  // Outputs that no float64 holds the variance of.
  const auto network = network_of("input = [1]\nlayer = [{ type = 'linear', out = 2 }]");
  randomise(*network, 1);
  Posterior posterior;
  posterior.likelihood = make_likelihood("regression", 1.0);
  posterior.fit = fit_curvature(*network, *posterior.likelihood,
                                {random_tensor({5, 1}, 1), random_tensor({5, 2}, 2)}, {});
  posterior.priors = layerwise_priors(*posterior.fit.curvature, {3.0, 0.25});
  const Validation far{
      *network,
      {1e170 * torch::ones({2, 1}, torch::kFloat64), torch::zeros({2, 2}, torch::kFloat64)}};
  const auto message = [&](const std::function<void()>& run) -> std::string {
    try {
      run();
    } catch (const NumericalError& error) {
      return error.what();
    }
    return "";
  };
  CHECK_THAT(message([&] { validation_nll(posterior, far); }),
             Contains("prior precision 0.25 of 0.bias"));
  CHECK_THAT(message([&] { validation_gradient(posterior, far); }), Contains("0.bias"));
  CHECK_THAT(message([&] {
               grid_by_validation(posterior, {1.0, 2.0}, far);
             }),
             Contains("prior precision 1 of 0.weight"));
}
