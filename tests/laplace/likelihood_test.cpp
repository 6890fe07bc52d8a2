// Likelihoods: derivatives, closed-form roots of the Hessian, and the estimators of it.
#include "tests/catch.h"

#include <torch/csrc/autograd/autograd.h>

#include "core/error.h"
#include "laplace/likelihood.h"
#include "tests/nn/layer_examples.h"

using namespace evariste;

namespace {

struct Case {
  std::shared_ptr<Likelihood> likelihood;
  Tensor f, y;
};

/// Every likelihood with outputs [n, classes].
std::vector<Case> cases(int64_t n, int64_t classes) {
  const auto f = 2 * random_tensor({n, classes}, 1);
  const auto target = random_tensor({n, classes}, 2);
  return {{std::make_shared<Softmax>(), f, target.argmax(1)},
          {std::make_shared<Gaussian>(0.4), f, target},
          {std::make_shared<Bernoulli>(), f, target.sigmoid()}};
}

Tensor squares(const Tensor& columns) {  // sum_r s_r s_r^T [n, C, C]
  return torch::einsum("rnc,rnd->ncd", {columns, columns});
}

double largest(const Tensor& t) { return t.abs().max().item<double>(); }

}  // namespace

TEST_CASE("the root of the Hessian squares to it, saturated or not", "[likelihood]") {
  for (const int64_t classes : {2, 3, 10, 1000}) {
    for (const auto& [likelihood, f, y] : cases(classes == 1000 ? 1 : 2, classes)) {
      if (classes == 1000 && likelihood->name() != "classification") continue;
      for (const auto type : {torch::kFloat32, torch::kFloat64}) {
        auto saturated = -80 * torch::ones_like(f);
        saturated.select(1, classes / 2).fill_(80);
        auto alternating = 80 * torch::ones_like(f);
        alternating.slice(1, 0, at::nullopt, 2).fill_(-80);
        for (const auto& logits : {f, saturated, -saturated, alternating}) {
          CAPTURE(likelihood->name(), classes, toString(type));
          const auto g = logits.to(type);
          for (const auto& root : {likelihood->hessian_root(g), likelihood->ranked_root(g)}) {
            CHECK(root.scalar_type() == type);
            CHECK(at::isfinite(root).all().item<bool>());
            const auto error =
                likelihood->curvature_scale() * squares(root) - likelihood->hessian(g);
            CHECK(largest(error) <
                  likelihood->curvature_scale() * (type == torch::kFloat64 ? 2e-15 : 1e-6));
          }
        }
      }
    }
  }
}

TEST_CASE("the softmax root has one column less than classes", "[likelihood]") {
  CHECK(Softmax().hessian_root(torch::randn({3, 7})).size(0) == 6);
  CHECK(Softmax().hessian_root(torch::randn({3, 1})).count_nonzero().item<int64_t>() == 0);
}

TEST_CASE("score and Hessian are derivatives of the log density", "[likelihood]") {
  for (const auto& [likelihood, logits, y] : cases(4, 3)) {
    CAPTURE(likelihood->name());
    const auto f = logits.clone().requires_grad_();
    const auto score =
        torch::autograd::grad({likelihood->log_density(f, y).sum()}, {f}, {}, true, true)[0];
    CHECK(largest(score - likelihood->score(f, y)) < 1e-13);
    const auto hessian = likelihood->hessian(f.detach());
    for (int64_t c = 0; c < 3; ++c) {
      const auto row = torch::autograd::grad({score.select(1, c).sum()}, {f}, {}, true, true)[0];
      CHECK(largest(row + hessian.select(1, c)) < 1e-13);
    }
  }
}

TEST_CASE("log densities and scores are finite at saturated logits", "[likelihood]") {
  for (const auto type : {torch::kFloat32, torch::kFloat64}) {
    const auto f = torch::tensor({{80.0, -80.0, 0.0}, {-80.0, 80.0, 80.0}}).to(type);
    for (const auto& [likelihood, unused, y] : cases(2, 3)) {
      CAPTURE(likelihood->name());
      const auto labels = y.is_floating_point() ? y.to(type) : y;
      CHECK(at::isfinite(likelihood->log_density(f, labels)).all().item<bool>());
      CHECK(at::isfinite(likelihood->score(f, labels)).all().item<bool>());
    }
  }
}

TEST_CASE("Monte Carlo and sketched Fisher are unbiased, with error 1/sqrt(draws)",
          "[likelihood]") {
  for (const auto& [likelihood, f, y] : cases(2, 3)) {
    for (const auto fisher : {Fisher::kMonteCarlo, Fisher::kSketch}) {
      const auto exact = squares(likelihood->hessian_root(f));
      for (const int64_t draws : {100, 10000}) {
        CAPTURE(likelihood->name(), static_cast<int>(fisher), draws);
        const auto columns = likelihood->columns(fisher, f, y, draws, Stream(3), 0);
        REQUIRE(columns.size(0) == draws);
        const auto s = columns * std::sqrt(static_cast<double>(draws));
        const auto each = s.unsqueeze(3) * s.unsqueeze(2);  // [S, n, C, C]
        const auto error = each.mean(0) - exact;
        CHECK(largest(error - (squares(columns) - exact)) < 1e-12);
        const auto deviation = each.std(0) / std::sqrt(static_cast<double>(draws));
        CHECK((error.abs() <= 5 * deviation + 1e-12).all().item<bool>());
      }
    }
  }
}

TEST_CASE("draws belong to a sample, whatever chunk it comes in", "[likelihood]") {
  for (const auto& [likelihood, f, y] : cases(6, 4)) {
    for (const auto fisher : {Fisher::kMonteCarlo, Fisher::kSketch}) {
      CAPTURE(likelihood->name(), static_cast<int>(fisher));
      const auto all = likelihood->columns(fisher, f, y, 5, Stream(3), 0);
      for (int64_t i = 0; i < 6; ++i) {
        const auto one =
            likelihood->columns(fisher, f.narrow(0, i, 1), y.narrow(0, i, 1), 5, Stream(3), i);
        CHECK(largest(one - all.narrow(1, i, 1)) < 1e-14);
      }
      const auto other = likelihood->columns(fisher, f, y, 5, Stream(4), 0);
      CHECK(largest(other - all) > 0.01);
    }
  }
}

TEST_CASE("the empirical Fisher is the square of the score", "[likelihood]") {
  for (const auto& [likelihood, f, y] : cases(4, 3)) {
    CAPTURE(likelihood->name());
    const auto columns = likelihood->columns(Fisher::kEmpirical, f, y, 1, Stream(0), 0);
    const auto score = likelihood->score(f, y).unsqueeze(0);
    CHECK(largest(likelihood->curvature_scale() * squares(columns) - squares(score)) < 1e-12);
  }
}

TEST_CASE("the baseline is the best constant output", "[likelihood]") {
  const auto n = 50;
  for (const auto& [likelihood, f, y] : cases(n, 3)) {
    CAPTURE(likelihood->name());
    Tensor best;
    if (likelihood->name() == "classification")
      best = torch::bincount(y, {}, 3).to(torch::kFloat64).log();
    else
      best = likelihood->is_regression() ? y.mean(0) : y.mean(0).logit();
    const auto reached = [&](const Tensor& constant) {
      return likelihood->log_density(constant.expand({n, 3}), y).mean().item<double>();
    };
    CHECK(likelihood->baseline(y, 3) == Approx(reached(best)));
    CHECK(reached(best + 0.1 * random_tensor({3}, 4)) < reached(best));
  }
}

TEST_CASE("the normaliser is what a temperature does not divide", "[likelihood]") {
  const Gaussian gaussian(0.4);
  const auto f = random_tensor({3, 2}, 1);
  CHECK(largest(gaussian.log_density(f, f) - gaussian.normaliser(f)) < 1e-14);
  CHECK(gaussian.normaliser(f)[0].item<double>() ==
        Approx(-2 * std::log(0.4 * std::sqrt(2 * M_PI))));
  CHECK(largest(Softmax().normaliser(f)) == 0);
  CHECK(largest(Bernoulli().normaliser(f)) == 0);
}

TEST_CASE("wrong labels, noise and names are refused", "[likelihood]") {
  const auto real = torch::zeros({3, 2});
  CHECK_THROWS_AS(Softmax().check_labels(real, 2), UsageError);
  CHECK_THROWS_AS(Softmax().check_labels(torch::tensor({0, 2}), 2), UsageError);
  CHECK_THROWS_AS(Softmax().check_labels(torch::tensor({0, -1}), 2), UsageError);
  CHECK_NOTHROW(Softmax().check_labels(torch::tensor({0, 1}), 2));
  CHECK_THROWS_AS(Gaussian().check_labels(real, 3), UsageError);
  CHECK_THROWS_AS(Gaussian().check_labels(real / 0, 2), UsageError);
  CHECK_NOTHROW(Gaussian().check_labels(real, 2));
  CHECK_THROWS_AS(Bernoulli().check_labels(real + 1.5, 2), UsageError);
  CHECK_NOTHROW(Bernoulli().check_labels(real + 0.5, 2));
  CHECK_THROWS_AS(Gaussian(0), UsageError);
  CHECK_THROWS_AS(Gaussian(-1), UsageError);
  try {
    make_likelihood("classificaton");
    FAIL("an unknown likelihood was made");
  } catch (const UsageError& e) {
    CHECK(std::string(e.what()).find("did you mean \"classification\"") != std::string::npos);
  }
  CHECK(make_likelihood("regression", 0.5)->curvature_scale() == Approx(4));
}
