// Leading eigenpairs of the GGN: with all of them it is the full curvature, with some a part of it.
#include "laplace/low_rank.h"

#include "laplace/predictive.h"
#include "tests/catch.h"
#include "tests/laplace/brute_force.h"

using namespace evariste;

namespace {

LowRankOptions whole() {
  LowRankOptions options;
  options.rank = 1000;
  options.iterations = 1;
  return options;
}

const DenseCurvature& dense_of(const Fit& fit) {
  return dynamic_cast<const DenseCurvature&>(*fit.curvature);
}

}  // namespace

TEST_CASE("with every eigenpair the low-rank curvature is the full one", "[laplace][lowrank]") {
  for (const auto& example : layer_examples()) {
    const auto network = example.build();
    const Samples data{example.inputs(6), random_labels(6, 3, 4), 18};
    CAPTURE(example.type, example.title);
    const auto full = fit_curvature(*network, Softmax(), data, options_of(Structure::kFull));
    if (dense_of(full).hessian().size(0) > 300) continue;
    const auto low = fit_low_rank(*network, Softmax(), data, whole());
    CHECK(low.log_likelihood == Approx(full.log_likelihood));
    CHECK(low.curvature->samples() == full.curvature->samples());
    std::vector<double> deltas;
    for (size_t m = 0; m < full.curvature->blocks().size(); ++m)
      deltas.push_back(0.5 + 0.25 * static_cast<double>(m));
    const auto priors = layerwise_priors(*full.curvature, deltas);
    const auto precisions = precisions_of(priors, *full.curvature);
    CHECK(low.curvature->log_det_ratio(precisions) ==
          Approx(full.curvature->log_det_ratio(precisions)).epsilon(1e-8));
    const auto a = low.curvature->log_det(precisions), b = full.curvature->log_det(precisions);
    std::vector<Tensor> g;
    for (size_t m = 0; m < a.size(); ++m) {
      CHECK(a[m].effective == Approx(b[m].effective).epsilon(1e-7).margin(1e-9));
      CHECK(a[m].slope == Approx(b[m].slope).epsilon(1e-6).margin(1e-8));
      CHECK(torch::allclose(a[m].entries, b[m].entries, 1e-6, 1e-9));
      g.push_back(random_tensor(full.curvature->blocks()[m]->value().sizes(), m));
    }
    const auto x = low.curvature->solve(g, precisions, 0.1),
               y = full.curvature->solve(g, precisions, 0.1);
    for (size_t m = 0; m < g.size(); ++m) CHECK(torch::allclose(x[m], y[m], 1e-7, 1e-9));
    const auto inputs = example.inputs(3, 9);
    const auto u = output_distribution(*network, inputs, *low.curvature, priors),
               v = output_distribution(*network, inputs, *full.curvature, priors);
    CHECK(torch::allclose(u.covariance, v.covariance, 1e-6, 1e-9));
  }
}

TEST_CASE("the leading eigenpairs are those of the GGN", "[laplace][lowrank]") {
  const auto network = network_of(
      "input = [1, 4, 4]\nlayer = [{ type = 'conv', out = 3, kernel = 3 }, { type = 'tanh' }, "
      "{ type = 'flatten' }, { type = 'linear', out = 4 }]");
  randomise(*network, 1);
  const Samples data{random_tensor({40, 1, 4, 4}, 2), random_labels(40, 4, 3)};
  const auto full = fit_curvature(*network, Softmax(), data, options_of(Structure::kFull));
  const auto expected = torch::linalg_eigvalsh(dense_of(full).hessian()).flip(0);
  LowRankOptions options;
  options.rank = 6;
  options.iterations = 40;
  const auto low = fit_low_rank(*network, Softmax(), data, options);
  const auto& curvature = dynamic_cast<const LowRankCurvature&>(*low.curvature);
  CHECK(torch::allclose(curvature.values().flip(0), expected.narrow(0, 0, 6), 1e-8, 0));
  const auto unit = curvature.basis().t().mm(curvature.basis());
  CHECK(torch::allclose(unit, torch::eye(6, torch::kFloat64), 1e-10, 1e-10));
  const auto priors = layerwise_priors(*full.curvature, 0.7);
  const auto precisions = precisions_of(priors, *full.curvature);
  double sum = 0;
  for (int64_t i = 0; i < 6; ++i) sum += std::log1p(expected[i].item<double>() / 0.7);
  CHECK(curvature.log_det_ratio(precisions) == Approx(sum));
  CHECK(curvature.log_det_ratio(precisions) < full.curvature->log_det_ratio(precisions));
  options.batch = 7;  // chunks change nothing
  const auto chunked = fit_low_rank(*network, Softmax(), data, options);
  CHECK(torch::allclose(dynamic_cast<const LowRankCurvature&>(*chunked.curvature).values(),
                        curvature.values(), 1e-9, 0));
}

TEST_CASE("draws of the low-rank posterior have its covariance", "[laplace][lowrank]") {
  const auto network = network_of("input = [3]\nlayer = [{ type = 'linear', out = 2 }]");
  randomise(*network, 1);
  const Samples data{random_tensor({20, 3}, 2), random_labels(20, 2, 3)};
  const auto low = fit_low_rank(*network, Softmax(), data, whole());
  const auto precisions = precisions_of(layerwise_priors(*low.curvature, 0.6), *low.curvature);
  auto sum = torch::zeros({8, 8}, torch::kFloat64);
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i) {
    const auto draw = low.curvature->sample(precisions, Stream(static_cast<uint64_t>(i)));
    const auto flat = torch::cat({draw[0].flatten(), draw[1].flatten()});
    sum += flat.outer(flat);
  }
  const auto full = fit_curvature(*network, Softmax(), data, options_of(Structure::kFull));
  const auto expected = torch::linalg_inv(dense_precision(*full.curvature, precisions));
  const auto scale = expected.diagonal().sqrt();
  const auto error = (sum / kDraws - expected) / scale.outer(scale);
  CHECK(error.abs().max().item<double>() < 6 / std::sqrt(static_cast<double>(kDraws)));
}

TEST_CASE("priors are fitted to a low-rank curvature as to any other", "[laplace][lowrank]") {
  const auto network = network_of(
      "input = [5]\nlayer = [{ type = 'linear', out = 4 }, "
      "{ type = 'tanh' }, { type = 'linear', out = 3 }]");
  randomise(*network, 1);
  const Samples data{random_tensor({40, 5}, 2), random_labels(40, 3, 3)};
  const auto low = fit_low_rank(*network, Softmax(), data, whole());
  const auto full = fit_curvature(*network, Softmax(), data, options_of(Structure::kFull));
  const auto priors = layerwise_priors(*low.curvature, 1.0);
  CHECK(evaluate_evidence(low, Softmax(), priors).log_evidence ==
        Approx(evaluate_evidence(full, Softmax(), priors).log_evidence));
}
