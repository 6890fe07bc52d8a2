// Predictions: covariance of the linearised outputs, links, and metrics.
#include "tests/catch.h"

#include "core/error.h"
#include "laplace/predictive.h"
#include "tests/laplace/brute_force.h"

using namespace evariste;

namespace {

double largest(const Tensor& t) { return t.abs().max().item<double>(); }

Network& small_classifier(std::shared_ptr<Network>& owner) {
  owner = network_of(
      "input = [3]\nlayer = [{ type = 'linear', out = 4 }, { type = 'tanh' }, "
      "{ type = 'linear', out = 3 }]");
  randomise(*owner, 1);
  return *owner;
}

/// A covariance with the given size.
OutputDistribution outputs_of(const Tensor& mean, double size) {
  const auto root = random_tensor({mean.size(0), mean.size(1), mean.size(1)}, 9);
  return {mean, size * root.matmul(root.transpose(1, 2))};
}

}  // namespace

TEST_CASE("the covariance of the outputs is J P^-1 J^T, for every layer and structure",
          "[predictive]") {
  for (const auto& example : layer_examples()) {
    const auto network = example.build();
    const auto x = example.inputs(5, 8);
    // Three samples leave thin bases in wide layers, forty complete ones.
    for (const int64_t n : {3, 40}) {
      const Samples data{example.inputs(n), random_labels(n, 3, 4)};
      for (const auto structure : {Structure::kKron, Structure::kEkfac, Structure::kDiag,
                                   Structure::kFull, Structure::kLastLayer}) {
        if (n > 3 && structure != Structure::kKron && structure != Structure::kEkfac) continue;
        CAPTURE(example.type, example.title, n, static_cast<int>(structure));
        const auto fit = fit_curvature(*network, Softmax(), data, options_of(structure));
        fit.curvature->set_scale(0.8);
        const auto priors = layerwise_priors(*fit.curvature, 0.6);
        const auto found = output_distribution(*network, x, *fit.curvature, priors, 2);
        const auto p = dense_precision(*fit.curvature, precisions_of(priors, *fit.curvature));
        const auto jacobian = autograd_jacobian(*network, x, fit.curvature->blocks());
        const auto expected = jacobian.matmul(at::linalg_inv(p)).matmul(jacobian.transpose(1, 2));
        CHECK(largest(found.covariance - expected) < 1e-8 * largest(expected));
        CHECK(largest(found.mean - network->forward(x).detach()) < 1e-12);
      }
    }
  }
}

TEST_CASE("joint blocks and one precision per entry predict as the dense matrix does",
          "[predictive]") {
  std::shared_ptr<Network> owner;
  auto& network = small_classifier(owner);
  const Samples data{random_tensor({9, 3}, 2), random_labels(9, 3, 4)};
  const auto x = random_tensor({4, 3}, 5);
  auto options = options_of(Structure::kFull);
  const auto apart = fit_curvature(network, Softmax(), data, options);
  options.bias = BiasCurvature::kJoint;
  const auto joint = fit_curvature(network, Softmax(), data, options);
  const auto covariance = [&](const Fit& fit, const Priors& priors) {
    return output_distribution(network, x, *fit.curvature, priors).covariance;
  };
  const auto expected = covariance(apart, layerwise_priors(*apart.curvature, 0.6));
  CHECK(largest(covariance(joint, layerwise_priors(*joint.curvature, 0.6)) - expected) < 1e-10);

  const auto diag = fit_curvature(network, Softmax(), data, options_of(Structure::kDiag));
  Priors priors;
  for (const auto* block : diag.curvature->blocks()) {
    DiagonalGaussian prior(1.0, block->value().sizes());
    torch::NoGradGuard no_grad;
    Tensor(prior.hyperparameters()[0].second).copy_(random_tensor(block->value().sizes(), 6));
    priors.emplace_back(std::move(prior));
  }
  const auto p = dense_precision(*diag.curvature, precisions_of(priors, *diag.curvature));
  const auto jacobian = autograd_jacobian(network, x, diag.curvature->blocks());
  CHECK(largest(covariance(diag, priors) -
                jacobian.matmul(at::linalg_inv(p)).matmul(jacobian.transpose(1, 2))) < 1e-10);
}

TEST_CASE("posterior draws have the covariance P^-1", "[predictive]") {
  const auto network = network_of("input = [2]\nlayer = [{ type = 'linear', out = 3 }]");
  randomise(*network, 1);
  const Samples data{random_tensor({6, 2}, 2), random_labels(6, 3, 4)};
  constexpr int64_t kDraws = 4000;
  for (const auto structure : {Structure::kKron, Structure::kEkfac, Structure::kDiag,
                               Structure::kBlock, Structure::kFull}) {
    CAPTURE(static_cast<int>(structure));
    const auto fit = fit_curvature(*network, Softmax(), data, options_of(structure));
    const auto precisions = precisions_of(layerwise_priors(*fit.curvature, 0.4), *fit.curvature);
    const auto expected = at::linalg_inv(dense_precision(*fit.curvature, precisions));
    std::vector<Tensor> draws;
    for (uint64_t s = 0; s < kDraws; ++s) {
      std::vector<Tensor> flat;
      for (const auto& part : fit.curvature->sample(precisions, Stream(5).split(s)))
        flat.push_back(part.flatten());
      draws.push_back(torch::cat(flat));
    }
    const auto all = torch::stack(draws);
    const auto variance = expected.diagonal();
    const auto deviation = ((expected.square() + torch::outer(variance, variance)) / kDraws).sqrt();
    CHECK(((all.t().mm(all) / kDraws - expected).abs() < 5 * deviation).all().item<bool>());
    CHECK((all.mean(0).abs() < 5 * (variance / kDraws).sqrt()).all().item<bool>());
    const auto again = fit.curvature->sample(precisions, Stream(5).split(7));
    CHECK(torch::equal(again[0].flatten(), all[7].narrow(0, 0, again[0].numel())));
  }
}

TEST_CASE("probit and Monte Carlo are the plug-in where the variance is tiny", "[predictive]") {
  const auto mean = 2 * random_tensor({5, 3}, 1);
  const auto outputs = outputs_of(mean, 1e-12);
  const std::vector<std::shared_ptr<Likelihood>> likelihoods = {std::make_shared<Softmax>(),
                                                                std::make_shared<Bernoulli>()};
  for (const auto& likelihood : likelihoods) {
    const auto plug_in = predict(outputs, *likelihood, Link::kMap);
    CHECK(largest(plug_in - likelihood->predict(mean)) == 0);
    for (const auto link : {Link::kProbit, Link::kMc}) {
      CAPTURE(likelihood->name(), static_cast<int>(link));
      CHECK(largest(predict(outputs, *likelihood, link) - plug_in) < 1e-5);
    }
  }
}

TEST_CASE("the Laplace bridge gives back the Dirichlet it came from", "[predictive]") {
  // Dirichlet(alpha) in logits: f_k = log alpha_k - mean log alpha, and the covariance of Hennig et
  // al. 2012. A constant added to all outputs changes nothing.
  const auto alpha =
      torch::tensor({{3.0, 8.0, 0.7, 40.0}, {900.0, 10.0, 55.0, 1.0}}, torch::kFloat64);
  const auto inverse = alpha.reciprocal();
  const auto mean = alpha.log() - alpha.log().mean(1, true);
  const auto pairs =
      (inverse.unsqueeze(2) + inverse.unsqueeze(1) - inverse.mean(1).view({-1, 1, 1})) / 4;
  const auto covariance = torch::diag_embed(inverse) - pairs;
  CHECK(largest(covariance.sum(2)) < 1e-15);
  const OutputDistribution outputs{mean + 1.3, covariance + 0.6};
  const auto p = predict(outputs, Softmax(), Link::kBridge);
  CHECK(largest(p - alpha / alpha.sum(1, true)) < 1e-12);
  CHECK_THROWS_AS(predict(outputs, Bernoulli(), Link::kBridge), UsageError);
}

TEST_CASE("Monte Carlo averages over N(f, V), draw by draw of a sample's own stream",
          "[predictive]") {
  const auto outputs = outputs_of(random_tensor({3, 2}, 1), 1.0);
  const auto p = predict(outputs, Softmax(), Link::kMc, Stream(4), 20000);
  // Two classes: softmax depends on f_0 - f_1 ~ N(m, v); integrate it on a grid.
  for (int64_t n = 0; n < 3; ++n) {
    const auto v = outputs.covariance[n];
    const double m = (outputs.mean[n][0] - outputs.mean[n][1]).item<double>();
    const double deviation = std::sqrt((v[0][0] + v[1][1] - 2 * v[0][1]).item<double>());
    double integral = 0;
    for (double z = -8; z < 8; z += 0.01)
      integral +=
          0.01 * std::exp(-0.5 * z * z) / std::sqrt(2 * M_PI) / (1 + std::exp(-m - deviation * z));
    CHECK(p[n][0].item<double>() == Approx(integral).margin(5 * 0.5 / std::sqrt(20000)));
  }
  CHECK(torch::equal(p, predict(outputs, Softmax(), Link::kMc, Stream(4), 20000)));
  const OutputDistribution first{outputs.mean.narrow(0, 0, 2), outputs.covariance.narrow(0, 0, 2)};
  CHECK(largest(predict(first, Softmax(), Link::kMc, Stream(4), 50) -
                predict(outputs, Softmax(), Link::kMc, Stream(4), 50).narrow(0, 0, 2)) < 1e-14);
}

TEST_CASE("probit shrinks by its formula, and regression predicts its mean", "[predictive]") {
  const auto outputs = outputs_of(random_tensor({4, 3}, 1), 2.0);
  const auto kappa = (1 + M_PI / 8 * outputs.covariance.diagonal(0, 1, 2)).rsqrt();
  CHECK(largest(predict(outputs, Softmax(), Link::kProbit) - (kappa * outputs.mean).softmax(1)) <
        1e-15);
  CHECK(torch::equal(predict(outputs, Gaussian(), Link::kMap), outputs.mean));
  CHECK_THROWS_AS(predict(outputs, Gaussian(), Link::kProbit), UsageError);
}

TEST_CASE("classification metrics of four samples by hand", "[predictive]") {
  const auto p = torch::tensor({{0.9, 0.1}, {0.9, 0.1}, {0.35, 0.65}, {0.5, 0.5}}, torch::kFloat64);
  const auto m = classification_metrics(p, torch::tensor({0, 1, 1, 0}));
  CHECK(m.accuracy == Approx(0.75));
  CHECK(m.nll == Approx(-(std::log(0.9) + std::log(0.1) + std::log(0.65) + std::log(0.5)) / 4));
  // Bins of 1/15: 0.9 twice (one right), 0.65 (right), 0.5 (right).
  CHECK(m.ece == Approx((std::abs(1 - 1.8) + 0.35 + 0.5) / 4));
  CHECK(std::isnan(m.rmse));
}

TEST_CASE("regression and Bernoulli metrics by hand", "[predictive]") {
  const auto f64 = torch::kFloat64;
  const auto m =
      regression_metrics(torch::tensor({{1.0}, {2.0}}, f64), torch::tensor({{4.0}, {1.0}}, f64),
                         torch::tensor({{3.0}, {2.5}}, f64));
  CHECK(m.rmse == Approx(std::sqrt((4 + 0.25) / 2)));
  CHECK(m.nll ==
        Approx(0.5 * (0.5 * (1 + std::log(8 * M_PI)) + 0.5 * (0.25 + std::log(2 * M_PI)))));
  CHECK(std::isnan(m.accuracy));

  // Confidence max(p, 1-p): 0.8 right, 0.7 right, 0.6 wrong, 0.9 right, each in a bin of its own.
  const auto b = bernoulli_metrics(torch::tensor({{0.8, 0.3}, {0.6, 0.1}}, f64),
                                   torch::tensor({{1.0, 0.0}, {0.0, 0.0}}, f64));
  CHECK(b.accuracy == Approx(0.75));
  CHECK(b.nll == Approx(-(std::log(0.8) + std::log(0.7) + std::log(0.4) + std::log(0.9)) / 2));
  CHECK(b.ece == Approx((0.2 + 0.3 + 0.6 + 0.1) / 4));
}
