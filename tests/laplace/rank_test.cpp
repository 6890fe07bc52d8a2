// Leaving out what confident samples do not contribute.
#include "tests/catch.h"

#include "tests/laplace/brute_force.h"

using namespace evariste;

namespace {

/// Confident for most samples: the weights of the last layer are large.
struct Confident {
  std::shared_ptr<Network> network = network_of(
      "input = [1, 4, 4]\nlayer = [{ type = 'conv', out = 3, kernel = 3 }, { type = 'tanh' }, "
      "{ type = 'flatten' }, { type = 'linear', out = 6 }]");
  Samples data{random_tensor({50, 1, 4, 4}, 2), random_labels(50, 6, 3), 100};

  Confident() {
    randomise(*network, 1);
    torch::NoGradGuard no_grad;
    network->parameters()[2].mul_(4);
  }
  Fit fit(double tolerance, Structure structure, int64_t batch = 250) const {
    auto options = options_of(structure);
    options.rank_tolerance = tolerance;
    options.batch = batch;
    return fit_curvature(*network, Softmax(), data, options);
  }
  Tensor full(double tolerance, int64_t batch = 250) const {
    const auto made = fit(tolerance, Structure::kFull, batch);
    return static_cast<const DenseCurvature&>(*made.curvature).hessian();
  }
};

}  // namespace

TEST_CASE("a tolerance of nothing leaves out nothing", "[laplace][rank]") {
  const Confident model;
  const auto exact = model.fit(0, Structure::kKron), ranked = model.fit(1e-14, Structure::kKron);
  CHECK(exact.columns == 5);
  CHECK(ranked.dropped < 1e-13);
  CHECK(ranked.log_likelihood == Approx(exact.log_likelihood));
  const auto& a = static_cast<const KronCurvature&>(*exact.curvature).factors();
  const auto& b = static_cast<const KronCurvature&>(*ranked.curvature).factors();
  for (size_t m = 0; m < a.size(); ++m) {
    CHECK(torch::allclose(a[m].b.dense(), b[m].b.dense(), 1e-9, 1e-11));
    CHECK(torch::allclose(a[m].a.dense(), b[m].a.dense(), 1e-9, 1e-11));
    CHECK(a[m].correction == Approx(b[m].correction));
  }
}

TEST_CASE("what a tolerance leaves out is positive and within it", "[laplace][rank]") {
  const Confident model;
  const auto exact = model.full(0);
  for (const double tolerance : {1e-3, 1e-2, 0.2})
    for (const int64_t batch : {250, 7}) {
      CAPTURE(tolerance, batch);
      const auto fit = model.fit(tolerance, Structure::kKron, batch);
      CHECK(fit.dropped <= tolerance);
      if (batch == 7) CHECK(fit.columns < 4.5);
      const auto rest = exact - model.full(tolerance, batch);
      const auto values = torch::linalg_eigvalsh(rest);
      const auto largest = torch::linalg_eigvalsh(exact).max().item<double>();
      CHECK(values.min().item<double>() > -1e-12 * largest);
      if (batch == 7 && tolerance > 0.1) CHECK(values.max().item<double>() > 1e-6 * largest);
    }
}

TEST_CASE("a ranked root begins with the likelier classes' columns", "[laplace][rank]") {
  const auto f = 3 * random_tensor({200, 6}, 5);
  const auto mass = [](const Tensor& root) { return root.square().sum(c10::IntArrayRef{1, 2}); };
  const auto ranked = mass(Softmax().ranked_root(f)), plain = mass(Softmax().hessian_root(f));
  CHECK(ranked[0].item<double>() > 1.2 * plain[0].item<double>());
  for (int64_t r = 1; r < 5; ++r) CHECK(ranked[r].item<double>() < ranked[r - 1].item<double>());
}

TEST_CASE("input factors count every sample, whatever columns it keeps", "[laplace][rank]") {
  const Confident model;
  const auto exact = model.fit(0, Structure::kKron), ranked = model.fit(0.5, Structure::kKron, 5);
  CHECK(ranked.columns < exact.columns);
  const auto& a = static_cast<const KronCurvature&>(*exact.curvature).factors();
  const auto& b = static_cast<const KronCurvature&>(*ranked.curvature).factors();
  for (size_t m = 0; m < a.size(); ++m)
    CHECK(torch::allclose(a[m].a.dense(), b[m].a.dense(), 1e-9, 1e-11));
}
