// The entry test: does a block that is held at 0 want to enter the model?
#include "tests/catch.h"

#include "core/error.h"
#include "tests/laplace/brute_force.h"

using namespace evariste;

namespace {

/// Linear regression with all weights at 0, where the entry test's quadratic is the exact evidence.
struct Model {
  Tensor x, y;
  double noise = 0.7;
  std::shared_ptr<Network> network;

  Model(int64_t n, int64_t inputs, double signal)
      : x(random_tensor({n, inputs}, 1)),
        y(signal * x.mm(random_tensor({inputs, 1}, 2)) + noise * random_tensor({n, 1}, 3)),
        network(network_of(fmt::format(
            "input = [{}]\nlayer = [{{ type = 'linear', out = 1, bias = false }}]", inputs))) {
    set_parameters(*network, {torch::zeros({1, inputs}, torch::kFloat64)});
  }

  /// log p(y) with the weights integrated out, less that without weights.
  double gain(double precision) const {
    const auto n = x.size(0);
    const auto c = torch::eye(n, torch::kFloat64) + x.mm(x.t()) / (precision * noise * noise);
    const auto fitted = (y * at::linalg_solve(c, y)).sum();
    return (0.5 * ((y.square().sum() - fitted) / (noise * noise) - torch::logdet(c)))
        .item<double>();
  }

  EntryTest test() const {
    const Gaussian likelihood(noise);
    const auto fit = fit_curvature(*network, likelihood, {x, y}, {});
    const auto tests = entry_tests(*network, likelihood, {x, y}, fit, 3);
    REQUIRE(tests.size() == 1);
    return tests[0];
  }
};

}  // namespace

TEST_CASE("a block enters where its gradient exceeds its Fisher trace", "[entry]") {
  int entered = 0, stayed = 0;
  for (const auto& [n, inputs] : {std::pair<int64_t, int64_t>(12, 4), {3, 5}}) {
    for (const double signal : {0.0, 0.05, 2.0}) {
      CAPTURE(n, inputs, signal);
      const Model model(n, inputs, signal);
      const auto test = model.test();
      const auto g = model.x.t().mm(model.y) / (model.noise * model.noise);
      CHECK(test.gradient_squared == Approx(g.square().sum().item<double>()));
      CHECK(test.fisher_trace ==
            Approx(model.x.square().sum().item<double>() / (model.noise * model.noise)));
      CHECK(test.ratio() == Approx(test.gradient_squared / test.fisher_trace));
      CHECK(test.name == "0.weight");
      // d log q / d(1/delta) at delta = infinity, by a difference.
      const double v = 1e-7;
      const auto slope = model.gain(1 / v) / v;
      CHECK(slope == Approx(0.5 * (test.gradient_squared - test.fisher_trace)).epsilon(1e-3));
      (test.ratio() > 1 ? entered : stayed) += 1;
    }
  }
  CHECK(entered > 0);
  CHECK(stayed > 0);
}

TEST_CASE("its gain is the largest gain of evidence over all precisions", "[entry]") {
  for (const auto& [n, inputs] : {std::pair<int64_t, int64_t>(12, 4), {3, 5}}) {
    for (const double signal : {0.0, 0.05, 2.0}) {
      CAPTURE(n, inputs, signal);
      const Model model(n, inputs, signal);
      const auto test = model.test();
      double best = 0;
      for (double rho = -10; rho <= 20; rho += 0.01)
        best = std::max(best, model.gain(std::exp(rho)));
      CHECK(test.gain == Approx(best).epsilon(1e-4).margin(1e-8));
      CHECK(std::max(0.0, model.gain(test.best_precision)) == Approx(test.gain).margin(1e-8));
    }
  }
}

TEST_CASE("a pathway at 0 is tested beside one that is in use", "[entry]") {
  const auto network = network_of(
      "input = [2, 4, 4]\nlayer = [{ type = 'sum', of = [{ type = 'conv', out = 2, kernel = 3, "
      "padding = 1 }, { type = 'fc', out = 2 }] }, { type = 'tanh' }, { type = 'flatten' }, "
      "{ type = 'linear', out = 3 }]");
  randomise(*network, 1);
  torch::NoGradGuard no_grad;
  network->named_parameters()["0.1.weight"].zero_();
  network->named_parameters()["0.1.bias"].zero_();
  const Samples data{random_tensor({6, 2, 4, 4}, 2), random_labels(6, 3, 3)};
  const auto fit = fit_curvature(*network, Softmax(), data, {});
  const auto tests = entry_tests(*network, Softmax(), data, fit, 4);
  const auto gradient =
      log_likelihood_gradient(*network, Softmax(), data, fit.curvature->blocks(), 9);
  const auto traces = fisher_traces(*network, Softmax(), data, {});
  for (size_t m = 0; m < tests.size(); ++m) {
    CAPTURE(tests[m].name);
    CHECK(tests[m].name == fit.curvature->blocks()[m]->name);
    CHECK(tests[m].gradient_squared == Approx(gradient.blocks[m].square().sum().item<double>()));
    CHECK(tests[m].fisher_trace == Approx(traces[m]));
    CHECK(tests[m].gain >= 0);
  }
  const auto diag = fit_curvature(*network, Softmax(), data, options_of(Structure::kDiag));
  CHECK_THROWS_AS(entry_tests(*network, Softmax(), data, diag, 4), UsageError);
}
