// The evidence: closed forms, its gradients, and its conventions.
#include "tests/catch.h"

#include <numbers>

#include "laplace/prior_fit.h"
#include "tests/laplace/brute_force.h"

using namespace evariste;

namespace {

const double kLog2Pi = std::log(2 * std::numbers::pi);

/// log p(y) of Bayesian linear regression, y ~ N(0, sigma^2 I + X X^T / delta), columns
/// independent.
double closed_form(const Tensor& x, const Tensor& y, double noise, double precision) {
  const auto n = x.size(0);
  const auto c = noise * noise * torch::eye(n, torch::kFloat64) + x.mm(x.t()) / precision;
  return -0.5 * ((y * at::linalg_solve(c, y)).sum().item<double>() +
                 static_cast<double>(y.size(1)) *
                     (torch::logdet(c).item<double>() + static_cast<double>(n) * kLog2Pi));
}

/// The mode of the weights [C, D].
Tensor ridge(const Tensor& x, const Tensor& y, double noise, double precision) {
  const auto p = x.t().mm(x) + noise * noise * precision * torch::eye(x.size(1), torch::kFloat64);
  return at::linalg_solve(p, x.t().mm(y)).t();
}

std::shared_ptr<Network> linear_model(const Tensor& weight) {
  const auto network = network_of(
      fmt::format("input = [{}]\nlayer = [{{ type = 'linear', out = {}, bias = false }}]",
                  weight.size(1), weight.size(0)));
  set_parameters(*network, {weight});
  return network;
}

struct TwoLayers {
  std::shared_ptr<Network> network = network_of(
      "input = [3]\nlayer = [{ type = 'linear', out = 4 }, { type = 'tanh' }, "
      "{ type = 'linear', out = 2 }]");
  Samples data{random_tensor({8, 3}, 2), random_tensor({8, 2}, 3)};
  TwoLayers() { randomise(*network, 1); }

  Evidence evidence(const CurvatureOptions& options, double noise, const std::vector<double>& rho,
                    double temperature = 1) const {
    const Gaussian likelihood(noise);
    const auto fit = fit_curvature(*network, likelihood, data, options);
    std::vector<double> precisions;
    for (const double r : rho) precisions.push_back(std::exp(r));
    return evaluate_evidence(fit, likelihood, layerwise_priors(*fit.curvature, precisions),
                             temperature);
  }
};

/// Not Gaussian: log density -sum sqrt(1 + (a theta)^2) and a constant.
class SoftAbsolute {
 public:
  static constexpr std::string_view kName = "soft-absolute";
  Tensor precision(const Tensor& theta) const {
    const auto a2 = (2 * log_slope_).exp();
    return a2 / (1 + a2 * theta.square()).sqrt();
  }
  Tensor log_density(const Tensor& theta) const {
    const auto a2 = (2 * log_slope_).exp();
    return (log_slope_ - (1 + a2 * theta.square()).sqrt()).sum();
  }
  NamedTensors hyperparameters() const { return {{"log_slope", log_slope_}}; }

 private:
  Tensor log_slope_ = log_leaf(1.3);
};
static_assert(LayerPrior<SoftAbsolute>);

}  // namespace

TEST_CASE("the evidence of Bayesian linear regression is exact", "[evidence]") {
  const double noise = 0.3, precision = 1.7;
  for (const int64_t outputs : {1, 3}) {
    for (const int64_t n : {4, 12}) {  // fewer samples than inputs, and more
      const auto x = random_tensor({n, 6}, 1), y = random_tensor({n, outputs}, 2);
      const auto network = linear_model(ridge(x, y, noise, precision));
      for (const auto structure :
           {Structure::kFull, Structure::kKron, Structure::kEkfac, Structure::kLastLayer}) {
        CAPTURE(outputs, n, static_cast<int>(structure));
        const Gaussian likelihood(noise);
        const auto fit = fit_curvature(*network, likelihood, {x, y}, options_of(structure));
        const auto e =
            evaluate_evidence(fit, likelihood, layerwise_priors(*fit.curvature, precision));
        CHECK(e.log_evidence == Approx(closed_form(x, y, noise, precision)).epsilon(1e-10));
        CHECK(e.n == n);
      }
    }
  }
}

TEST_CASE("gradients in log delta are central differences, for every structure", "[evidence]") {
  const TwoLayers model;
  const std::vector<double> rho = {0.3, -0.7, 1.1, -0.2};
  for (const auto structure : {Structure::kKron, Structure::kEkfac, Structure::kDiag,
                               Structure::kFull, Structure::kLastLayer}) {
    const auto options = options_of(structure);
    for (const double temperature : {1.0, 0.7}) {
      const auto e = model.evidence(options, 0.6, rho, temperature);
      for (size_t m = 0; m < e.blocks.size(); ++m) {
        CAPTURE(static_cast<int>(structure), temperature, e.blocks[m].name);
        const double h = 1e-4;
        auto up = rho, down = rho;
        up[m] += h, down[m] -= h;
        const auto difference = (model.evidence(options, 0.6, up, temperature).log_evidence -
                                 model.evidence(options, 0.6, down, temperature).log_evidence) /
                                (2 * h);
        CHECK(e.blocks[m].evidence_gradient == Approx(difference).epsilon(1e-6).margin(1e-6));
      }
    }
  }
}

TEST_CASE("the gradient in log sigma is a central difference", "[evidence]") {
  const TwoLayers model;
  const std::vector<double> rho = {0.3, -0.7, 1.1, -0.2};
  const auto f = model.network->forward(model.data.x);
  const auto squares = (model.data.y - f).square().sum().item<double>();
  for (const auto structure : {Structure::kKron, Structure::kEkfac, Structure::kDiag,
                               Structure::kBlock, Structure::kFull}) {
    for (const double temperature : {1.0, 0.7}) {
      CAPTURE(static_cast<int>(structure), temperature);
      const auto value = [&](double log_noise) {
        return model.evidence(options_of(structure), std::exp(log_noise), rho, temperature);
      };
      const double s = std::log(0.6), h = 1e-4;
      const auto difference = (value(s + h).log_evidence - value(s - h).log_evidence) / (2 * h);
      const auto gradient =
          noise_gradient(squares, 8, 2, 0.6, value(s).effective_dimension(), temperature);
      CHECK(-gradient == Approx(difference).epsilon(1e-6));
    }
  }
}

TEST_CASE("a temperature divides the data, not the normaliser of the noise", "[evidence]") {
  const TwoLayers model;
  const double noise = 0.6, temperature = 0.7, delta = 1.4;
  const Gaussian likelihood(noise);
  const auto fit =
      fit_curvature(*model.network, likelihood, model.data, options_of(Structure::kFull));
  const auto e =
      evaluate_evidence(fit, likelihood, layerwise_priors(*fit.curvature, delta), temperature);
  const auto squares =
      (model.data.y - model.network->forward(model.data.x)).square().sum().item<double>();
  const auto normaliser = -16 * (std::log(noise) + 0.5 * kLog2Pi);
  CHECK(fit.normaliser == Approx(normaliser));
  CHECK(e.log_likelihood == Approx(normaliser - 0.5 * squares / (noise * noise)));
  const auto h = dense_ggn(*model.network, likelihood, model.data.x, fit.curvature->blocks());
  const auto ratio = log_det_ratio(h / temperature, torch::tensor(delta, torch::kFloat64));
  CHECK(e.log_det_ratio == Approx(ratio));
  double norm = 0;
  for (const auto& p : model.network->parameters()) norm += p.square().sum().item<double>();
  CHECK(e.scatter == Approx(delta * norm));
  CHECK(e.log_evidence == Approx(normaliser - 0.5 * squares / (noise * noise * temperature) -
                                 0.5 * (ratio + delta * norm)));
}

TEST_CASE("blocks add up, and coupled structures say that they are coupled", "[evidence]") {
  const TwoLayers model;
  for (const auto structure : {Structure::kKron, Structure::kEkfac, Structure::kDiag,
                               Structure::kBlock, Structure::kFull}) {
    const auto e = model.evidence(options_of(structure), 0.6, {0, 0, 0, 0});
    double ratio = 0, scatter = 0;
    for (const auto& block : e.blocks) {
      ratio += block.log_det_ratio;
      scatter += block.scatter;
      CHECK(block.scatter == Approx(block.squared_norm * block.prior_precision));
    }
    CHECK(e.scatter == Approx(scatter));
    if (structure == Structure::kFull)
      CHECK(std::isnan(ratio));
    else
      CHECK(e.log_det_ratio == Approx(ratio));
    CHECK(e.log_evidence == Approx(e.log_likelihood - 0.5 * (e.log_det_ratio + e.scatter)));
  }
}

TEST_CASE("scatter of a prior that is not Gaussian is what is left of its density", "[evidence]") {
  const TwoLayers model;
  const Gaussian likelihood(0.6);
  const auto fit =
      fit_curvature(*model.network, likelihood, model.data, options_of(Structure::kFull));
  Priors priors;
  double log_density = 0, parameters = 0;
  for (const auto* block : fit.curvature->blocks()) {
    priors.emplace_back(SoftAbsolute());
    log_density += priors.back().log_density(block->value()).item<double>();
    parameters += static_cast<double>(block->parameters());
  }
  // log q = log p(D) + log p(theta) + P/2 log 2 pi - 1/2 log|P|
  const auto precisions = precisions_of(priors, *fit.curvature);
  const auto e = evaluate_evidence(fit, likelihood, priors);
  const auto p = dense_precision(*fit.curvature, precisions);
  CHECK(e.log_evidence == Approx(e.log_likelihood + log_density + 0.5 * parameters * kLog2Pi -
                                 0.5 * torch::logdet(p).item<double>()));
  const auto kron = fit_curvature(*model.network, likelihood, model.data, {});
  CHECK_THROWS(evaluate_evidence(kron, likelihood, priors));
}

TEST_CASE("noise and prior together reach the maximum of the exact evidence", "[evidence]") {
  // Fewer inputs than samples, targets with signal and noise.
  const auto x = random_tensor({20, 3}, 1);
  const auto y = x.mm(random_tensor({3, 1}, 2)) + 0.4 * random_tensor({20, 1}, 3);
  double noise = 1, precision = 1;
  for (int i = 0; i < 60; ++i) {
    const auto network = linear_model(ridge(x, y, noise, precision));
    Gaussian likelihood(noise);
    auto fit = fit_curvature(*network, likelihood, {x, y}, {});
    const auto priors = layerwise_priors(*fit.curvature, precision);
    noise = fit_noise(likelihood, priors, fit, 1, 1.0, true);
    CHECK(likelihood.noise() == noise);
    precision = precisions_of(priors, *fit.curvature)[0].item<double>();
  }
  const double h = 1e-4;
  CHECK((closed_form(x, y, noise * std::exp(h), precision) -
         closed_form(x, y, noise * std::exp(-h), precision)) /
            (2 * h) ==
        Approx(0).margin(1e-6));
  CHECK((closed_form(x, y, noise, precision * std::exp(h)) -
         closed_form(x, y, noise, precision * std::exp(-h))) /
            (2 * h) ==
        Approx(0).margin(1e-6));
}
