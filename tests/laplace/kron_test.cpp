// Kronecker factors: exact cases, limits, and the Gram form for few rows.
#include "tests/catch.h"

#include <torch/csrc/autograd/autograd.h>

#include "core/error.h"
#include "tests/laplace/brute_force.h"

using namespace evariste;

namespace {

void check_close(const Tensor& found, const Tensor& expected, double tolerance = 1e-9) {
  REQUIRE(found.sizes() == expected.sizes());
  CHECK((found - expected).abs().max().item<double>() <
        tolerance * std::max(1e-3, expected.abs().max().item<double>()));
}

Tensor random_gram(int64_t rows, int64_t size, uint64_t seed) {
  const auto x = random_tensor({1, rows, size}, seed);
  return x.transpose(1, 2).matmul(x);
}

KronFactor factor_of(const Tensor& b, const Tensor& a) {
  KronFactor factor;
  factor.a.matrix = a;
  factor.b.matrix = b;
  factor.a.decompose(true, torch::kFloat64, "a");
  factor.b.decompose(true, torch::kFloat64, "b");
  return factor;
}

}  // namespace

TEST_CASE("sums over a Kronecker spectrum are those of the dense matrix", "[kron]") {
  for (const int64_t rows : {2, 9}) {  // rank deficient and not
    auto factor = factor_of(random_gram(rows, 3, 1), random_gram(rows, 4, 2));
    factor.correction = 1.7;
    for (const double delta : {1e-3, 1.0, 40.0}) {
      const auto h = 0.6 * dense_kron(factor);
      const auto eye = torch::eye(12, torch::kFloat64);
      const auto inverse = at::linalg_inv(h + delta * eye);
      const auto sums = spectral_sums(factor, 0.6, delta);
      CHECK(sums.log1p == Approx(log_det_ratio(h, torch::tensor(delta, torch::kFloat64))));
      CHECK(sums.effective == Approx(h.mm(inverse).trace().item<double>()));
      CHECK(sums.slope == Approx(delta * h.mm(inverse).mm(inverse).trace().item<double>()));
    }
  }
}

TEST_CASE("cotangents of a Kronecker spectrum are derivatives of its log-determinant", "[kron]") {
  for (const int64_t rows : {2, 9}) {  // rank deficient and not
    KronFactor factor;
    factor.a.values = at::linalg_eigvalsh(random_gram(rows, 3, 1)).clamp_min(0);
    factor.b.values = at::linalg_eigvalsh(random_gram(rows, 4, 2)).clamp_min(0);
    factor.correction = 1.7;
    const auto cotangents = spectral_cotangents(factor, 0.6, 0.3);
    const auto a = factor.a.values.clone().requires_grad_();
    const auto b = factor.b.values.clone().requires_grad_();
    const auto half_log = 0.5 * (0.6 * 1.7 * b.unsqueeze(2) * a.unsqueeze(1) + 0.3).log().sum();
    const auto expected = torch::autograd::grad({half_log}, {a, b});
    CHECK(torch::allclose(cotangents.a, expected[0], 1e-13, 0));
    CHECK(torch::allclose(cotangents.b, expected[1], 1e-13, 0));
  }
}

TEST_CASE("sums over a spectrum of 40 decades keep their digits", "[kron]") {
  const auto b = torch::pow(10.0, torch::linspace(-20, 0, 7, torch::kFloat64)).unsqueeze(0);
  const auto a = torch::pow(10.0, torch::linspace(-10, 10, 501, torch::kFloat64)).unsqueeze(0);
  KronFactor kron, ekfac;
  kron.b.values = ekfac.b.values = b;
  kron.a.values = ekfac.a.values = a;
  ekfac.spectrum = kron.eigenvalues().flip(2).contiguous();  // any order
  for (const double scale : {1e-9, 1.0, 1e150}) {
    long double log1p = 0, effective = 0, slope = 0;
    const auto lambda = (scale * kron.eigenvalues() / 0.3).contiguous();
    for (int64_t i = 0; i < lambda.numel(); ++i) {
      const long double r = lambda.data_ptr<double>()[i];
      log1p += std::log1p(r);
      effective += r / (1 + r);
      slope += r / (1 + r) / (1 + r);
    }
    for (const auto* factor : {&kron, &ekfac}) {
      CAPTURE(scale, factor == &ekfac);
      const auto sums = spectral_sums(*factor, scale, 0.3);
      CHECK(sums.log1p == Approx(static_cast<double>(log1p)).epsilon(1e-13));
      CHECK(sums.effective == Approx(static_cast<double>(effective)).epsilon(1e-13));
      CHECK(sums.slope == Approx(static_cast<double>(slope)).epsilon(1e-13));
    }
  }
}

TEST_CASE("limits of the log-determinant", "[kron]") {
  const auto a = random_gram(9, 4, 1), b = random_gram(9, 3, 2);
  const auto factor = factor_of(b, a);
  const auto trace = (factor.a.traces() * factor.b.traces()).item<double>();
  CHECK(1e9 * spectral_sums(factor, 1, 1e9).log1p == Approx(trace).epsilon(1e-6));
  const double tiny = 1e-12;  // log|B (x) A| = 3 log|A| + 4 log|B|
  CHECK(spectral_sums(factor, 1, tiny).log1p + 12 * std::log(tiny) ==
        Approx(3 * torch::logdet(a[0]).item<double>() + 4 * torch::logdet(b[0]).item<double>())
            .epsilon(1e-8));
  const auto eye = factor_of(torch::eye(3, torch::kFloat64).unsqueeze(0),
                             torch::eye(4, torch::kFloat64).unsqueeze(0));
  CHECK(spectral_sums(eye, 1, 0.7).log1p + 12 * std::log(0.7) == Approx(12 * std::log(1.7)));
  const auto zero = factor_of(torch::zeros({1, 3, 3}, torch::kFloat64), a);
  CHECK(spectral_sums(zero, 1, 0.7).log1p == 0);
  CHECK(spectral_sums(zero, 1, 0.7).effective == 0);
}

TEST_CASE("one linear layer with Gaussian noise: Kronecker is exact for any data", "[kron]") {
  const auto network = network_of("input = [4]\nlayer = [{ type = 'linear', out = 3 }]");
  randomise(*network, 1);
  const Samples data{random_tensor({7, 4}, 2), random_tensor({7, 3}, 3)};
  for (const auto correction : {Correction::kNone, Correction::kTrace}) {
    CurvatureOptions options;
    options.correction = correction;
    const auto fit = fit_curvature(*network, Gaussian(0.5), data, options);
    const auto& kron = dynamic_cast<const KronCurvature&>(*fit.curvature);
    const auto h = 0.25 * dense_ggn(*network, Gaussian(0.5), data.x, kron.blocks());
    for (size_t m = 0; m < 2; ++m)
      check_close(dense_kron(kron.factors()[m]), part_of(h, kron.blocks(), m), 1e-12);
  }
}

TEST_CASE("a deep linear network with Gaussian noise is exact block by block", "[kron]") {
  const auto network = network_of(
      "input = [3]\nlayer = [{ type = 'linear', out = 4 }, { type = 'linear', out = 2 }]");
  randomise(*network, 1);
  const Samples data{random_tensor({6, 3}, 2), random_tensor({6, 2}, 3)};
  const auto fit = fit_curvature(*network, Gaussian(), data, {});
  const auto& kron = dynamic_cast<const KronCurvature&>(*fit.curvature);
  const auto h = dense_ggn(*network, Gaussian(), data.x, kron.blocks());
  for (size_t m = 0; m < kron.blocks().size(); ++m)
    check_close(dense_kron(kron.factors()[m]), part_of(h, kron.blocks(), m), 1e-12);
}

TEST_CASE("reduce is exact for one sample of a pooled convolution", "[kron]") {
  const auto network = network_of(
      "input = [2, 4, 3]\nlayer = [{ type = 'conv', out = 3, kernel = 2 }, "
      "{ type = 'global_avgpool' }, { type = 'linear', out = 3 }]");
  randomise(*network, 1);
  const Samples data{random_tensor({1, 2, 4, 3}, 2), random_labels(1, 3, 3)};
  CurvatureOptions options;
  options.correction = Correction::kNone;
  options.sharing = Sharing::kReduce;
  const auto fit = fit_curvature(*network, Softmax(), data, options);
  const auto& kron = dynamic_cast<const KronCurvature&>(*fit.curvature);
  const auto h = dense_ggn(*network, Softmax(), data.x, kron.blocks());
  for (size_t m = 0; m < kron.blocks().size(); ++m)
    check_close(dense_kron(kron.factors()[m]), part_of(h, kron.blocks(), m), 1e-11);
  CHECK(fit.curvature->trace_ratios().size() == kron.blocks().size());
}

TEST_CASE("without correction the trace is exact where inputs have one length", "[kron]") {
  const auto network =
      network_of("input = [4]\nlayer = [{ type = 'linear', out = 3, bias = false }]");
  randomise(*network, 1);
  auto x = random_tensor({6, 4}, 2);
  x = 2 * x / x.norm(2, 1, true);
  const auto fit = fit_curvature(*network, Softmax(), {x, random_labels(6, 3, 3)}, {});
  CHECK(fit.curvature->trace_ratios()[0] == Approx(1).epsilon(1e-12));
}

TEST_CASE("few rows: the Gram form does what the dense matrix does", "[kron]") {
  const auto network = network_of(
      "input = [3, 4, 4]\nlayer = [{ type = 'fc', out = 2, stride = 2 }, { type = 'tanh' }, "
      "{ type = 'conv', out = 4, kernel = 1 }, { type = 'flatten' }, { type = 'linear', out = 3 "
      "}]");
  randomise(*network, 1);
  const Samples data{random_tensor({3, 3, 4, 4}, 2), random_labels(3, 3, 3)};
  const auto fit = fit_curvature(*network, Softmax(), data, {});
  const auto& thin = dynamic_cast<const KronCurvature&>(*fit.curvature);
  REQUIRE(thin.factors()[0].a.rows.defined());
  REQUIRE_FALSE(thin.factors()[0].is_complete());
  auto factors = thin.factors();
  for (auto& factor : factors) {
    for (auto* side : {&factor.a, &factor.b}) {
      const auto matrix = side->dense();
      *side = SymmetricFactor();
      side->matrix = matrix;
    }
  }
  KronCurvature dense(thin.blocks(), factors, thin.trace_ratios(), thin.samples());
  dense.decompose(true);
  REQUIRE(dense.factors()[0].is_complete());

  const auto precisions = precisions_of(layerwise_priors(thin, 0.3), thin);
  const auto p = dense_precision(thin, precisions);
  std::vector<Tensor> g;
  for (const auto* block : thin.blocks()) g.push_back(random_tensor(block->value().sizes(), 5));
  const auto a = thin.log_det(precisions), b = dense.log_det(precisions);
  const auto solved = thin.solve(g, precisions, 0.1), expected = dense.solve(g, precisions, 0.1);
  const auto drawn = thin.sample(precisions, Stream(1)), draw = dense.sample(precisions, Stream(1));
  double norm = 0;
  const auto undamped = dense.solve(g, precisions, 0);
  for (size_t m = 0; m < g.size(); ++m) norm += (g[m] * undamped[m]).sum().item<double>();
  CHECK(thin.inverse_norm(g, precisions) == Approx(norm).epsilon(1e-10));
  CHECK(dense.inverse_norm(g, precisions) == Approx(norm).epsilon(1e-10));
  for (size_t m = 0; m < g.size(); ++m) {
    CAPTURE(thin.blocks()[m]->name);
    CHECK(a[m].ratio == Approx(b[m].ratio).epsilon(1e-10));
    CHECK(a[m].effective == Approx(b[m].effective).epsilon(1e-10));
    CHECK(a[m].slope == Approx(b[m].slope).epsilon(1e-10));
    const auto part = part_of(p, thin.blocks(), m);
    CHECK(a[m].ratio == Approx(torch::logdet(part).item<double>() -
                               static_cast<double>(part.size(0)) * std::log(0.3)));
    check_close(solved[m], expected[m]);
    const auto damped = part + 0.1 * torch::eye(part.size(0), torch::kFloat64);
    check_close(solved[m].flatten(), at::linalg_solve(damped, g[m].flatten()));
    check_close(drawn[m], draw[m]);
    // The draw is P^-1/2 z, and P^1/2 of it gives back z.
    const auto z = normal_draws(g[m], Stream(1).split(m)).flatten();
    const auto [values, vectors] = at::linalg_eigh(part, "L");
    check_close(drawn[m].flatten(), vectors.matmul(values.rsqrt() * vectors.t().matmul(z)), 1e-8);
  }
}

TEST_CASE("few rows: a float32 basis costs no eigenvalues", "[kron]") {
  // Six decades of them, of which float32 rounding reaches the lower ones.
  const auto scales = torch::logspace(0, -3, 120, 10, torch::kFloat64).unsqueeze(1);
  SymmetricFactor wide, narrow;
  wide.rows = narrow.rows =
      (scales * std::get<0>(at::linalg_qr(random_tensor({300, 120}, 1))).t()).unsqueeze(0);
  wide.decompose(true, torch::kFloat64, "wide");
  narrow.decompose(true, torch::kFloat32, "narrow");
  CHECK(narrow.basis.scalar_type() == torch::kFloat32);
  CHECK(torch::allclose(narrow.values, wide.values, 1e-9, 0));
  const auto basis = narrow.basis[0].to(torch::kFloat64);
  const auto eye = torch::eye(120, torch::kFloat64);
  CHECK((basis.t().mm(basis) - eye).abs().max().item<double>() < 5e-6);
}

TEST_CASE("nearly as many rows as dimensions: float32 values are those of its basis", "[kron]") {
  const auto scales = torch::logspace(0, -3, 200, 10, torch::kFloat64).unsqueeze(1);
  SymmetricFactor wide, narrow;
  wide.rows = narrow.rows =
      (scales * std::get<0>(at::linalg_qr(random_tensor({300, 200}, 1))).t()).unsqueeze(0);
  wide.decompose(true, torch::kFloat64, "wide");
  narrow.decompose(true, torch::kFloat32, "narrow");
  REQUIRE(narrow.is_complete());
  // Zeros that are rounding, as float32 decomposes them, make this 4e-6 too large.
  const auto log_det = [](const SymmetricFactor& factor) {
    return (factor.values / 1e-4).log1p().sum().item<double>();
  };
  CHECK(log_det(narrow) == Approx(log_det(wide)).epsilon(1.5e-6));
  CHECK((narrow.values.diff() >= 0).all().item<bool>());
  const auto basis = narrow.basis[0].to(torch::kFloat64);
  const auto eye = torch::eye(300, torch::kFloat64);
  CHECK((basis.t().mm(basis) - eye).abs().max().item<double>() < 5e-6);
  const auto error = (narrow.dense() - wide.dense()).norm() / wide.dense().norm();
  CHECK(error.item<double>() < 1e-5);
}

TEST_CASE("a bias whose cotangents are its weight's shares the output factor", "[kron]") {
  const auto network = network_of(
      "input = [2, 4, 4]\nlayer = [{ type = 'conv', out = 3, kernel = 3 }, { type = 'tanh' }, "
      "{ type = 'flatten' }, { type = 'linear', out = 4 }]");
  randomise(*network, 1);
  const Samples data{random_tensor({9, 2, 4, 4}, 2), random_labels(9, 4, 3)};
  CurvatureOptions options;
  const auto shares = [&](BiasCurvature bias, size_t weight) {
    options.bias = bias;
    const auto fit = fit_curvature(*network, Softmax(), data, options);
    const auto& factors = dynamic_cast<const KronCurvature&>(*fit.curvature).factors();
    return factors[weight].b.basis.is_same(factors[weight + 1].b.basis);
  };
  CHECK(shares(BiasCurvature::kExact, 2));  // the linear layer: one position
  CHECK(shares(BiasCurvature::kExpand, 2));
  CHECK_FALSE(shares(BiasCurvature::kExact, 0));   // sums over positions first
  CHECK_FALSE(shares(BiasCurvature::kExpand, 0));  // the same up to a factor
}

TEST_CASE("an earlier basis is kept where it still diagonalises the factor", "[kron]") {
  const auto turned = at::linalg_qr(random_tensor({2, 6, 6}, 1));
  const auto& u = std::get<0>(turned);
  const auto values = torch::logspace(-6, 2, 6, 10.0, torch::kFloat64).expand({2, 6});
  const auto noise = random_tensor({2, 6, 6}, 2);
  const auto symmetric = noise + noise.transpose(1, 2);
  const auto near = [&](double step) {
    SymmetricFactor factor;
    factor.matrix = (u * values.unsqueeze(1)).matmul(u.transpose(1, 2)) + step * symmetric;
    return factor;
  };
  auto exact = near(0);
  REQUIRE(exact.keep_basis(u, 1e-10));
  check_close(exact.values, values, 1e-8);
  check_close(exact.dense(), near(0).matrix, 1e-10);

  auto close = near(1e-3);
  REQUIRE(close.keep_basis(u, 1e-3));
  auto decomposed = near(1e-3);
  decomposed.matrix = decomposed.matrix + 1e-2 * torch::eye(6, torch::kFloat64);  // stays positive
  auto kept = decomposed;
  REQUIRE(kept.keep_basis(u, 1e-3));
  decomposed.decompose(false, torch::kFloat64, "a");
  check_close(kept.values.sum(1), decomposed.values.sum(1), 1e-12);
  const auto log_kept = kept.values.add(1.0).log().sum(1),
             log_det = decomposed.values.add(1.0).log().sum(1);
  CHECK((log_kept >= log_det - 1e-12).all().item<bool>());  // Hadamard's inequality
  check_close(log_kept, log_det, 1e-4);

  auto far = near(10.0);
  CHECK_FALSE(far.keep_basis(u, 1e-3));
  CHECK_FALSE(far.values.defined());
  auto damaged = near(0);
  damaged.matrix[0][0][0] = std::nan("");
  CHECK_FALSE(damaged.keep_basis(u, 1e-3));
  CHECK_FALSE(near(0).keep_basis(u.narrow(2, 0, 5), 1e-3));  // a basis of less than the space
}

TEST_CASE("a fit keeps the bases of an earlier one at nearly the same weights", "[kron]") {
  const auto network = network_of(
      "input = [5]\nlayer = [{ type = 'linear', out = 4 }, { type = 'tanh' }, { type = 'linear', "
      "out = 3 }]");
  randomise(*network, 1);
  const Samples data{random_tensor({40, 5}, 2), random_labels(40, 3, 3)};
  CurvatureOptions options;
  const auto before = fit_curvature(*network, Softmax(), data, options);
  CHECK(before.kept_bases == 0);
  named_blocks(*network)[0]->weight().data().mul_(1 + 1e-5);
  options.previous = before.curvature;
  options.basis_tolerance = 1e-3;
  const auto after = fit_curvature(*network, Softmax(), data, options);
  CHECK(after.kept_bases == 6);  // two biases share those of their weights
  options.previous = nullptr;
  const auto anew = fit_curvature(*network, Softmax(), data, options);
  const auto priors = precisions_of(layerwise_priors(*anew.curvature, 0.3), *anew.curvature);
  CHECK(after.curvature->log_det_ratio(priors) ==
        Approx(anew.curvature->log_det_ratio(priors)).epsilon(1e-6));
  randomise(*network, 7);
  options.previous = before.curvature;
  CHECK(fit_curvature(*network, Softmax(), data, options).kept_bases < 6);

  const auto other = network_of("input = [5]\nlayer = [{ type = 'linear', out = 3 }]");
  randomise(*other, 1);
  CHECK_THROWS_AS(fit_curvature(*other, Softmax(), data, options), UsageError);
}

TEST_CASE("a factor that is not positive is a numerical error that names it", "[kron]") {
  SymmetricFactor factor;
  factor.matrix = torch::diag(torch::tensor({1.0, -0.5}, torch::kFloat64)).unsqueeze(0);
  try {
    factor.decompose(true, torch::kFloat64, "input factor of 3.weight");
    FAIL("an indefinite factor was decomposed");
  } catch (const NumericalError& e) {
    CHECK(std::string(e.what()).find("input factor of 3.weight") == 0);
  }
  factor.matrix[0][0][0] = std::nan("");
  CHECK_THROWS_AS(factor.decompose(false, torch::kFloat64, "a"), NumericalError);
  factor.matrix = torch::diag(torch::tensor({1.0, -1e-17}, torch::kFloat64)).unsqueeze(0);
  factor.decompose(false, torch::kFloat64, "a");  // rounding below zero is zero
  CHECK(factor.values.min().item<double>() == 0);
}

TEST_CASE("one precision per entry cannot be combined with a Kronecker product", "[kron]") {
  const auto network = network_of("input = [3]\nlayer = [{ type = 'linear', out = 2 }]");
  randomise(*network, 1);
  const Samples data{random_tensor({5, 3}, 2), random_labels(5, 2, 3)};
  const auto fit = fit_curvature(*network, Softmax(), data, {});
  Priors priors;
  for (const auto* block : fit.curvature->blocks())
    priors.emplace_back(DiagonalGaussian(1.0, block->value().sizes()));
  CHECK_THROWS_AS(evaluate_evidence(fit, Softmax(), priors), UsageError);
  priors.pop_back();
  CHECK_THROWS_AS(evaluate_evidence(fit, Softmax(), priors), UsageError);
}

TEST_CASE("a sketched trace is exact for one output and right on average", "[kron]") {
  const auto network = network_of(
      "input = [2, 4, 4]\nlayer = [{ type = 'conv', out = 3, kernel = 3 }, { type = 'tanh' }, "
      "{ type = 'flatten' }, { type = 'linear', out = 3 }]");
  randomise(*network, 1);
  const Samples data{random_tensor({5, 2, 4, 4}, 2), random_labels(5, 3, 3)};
  CurvatureOptions options;
  const auto ratios = [&](const Likelihood& likelihood) {
    return fit_curvature(*network, likelihood, data, options).curvature->trace_ratios();
  };
  const auto exact = ratios(Softmax());
  options.correction = Correction::kSketch;
  constexpr int kDraws = 400;
  std::vector<double> sum(exact.size()), squares(exact.size());
  for (int draw = 0; draw < kDraws; ++draw) {
    options.stream = Stream(static_cast<uint64_t>(draw));
    const auto sketched = ratios(Softmax());
    for (size_t m = 0; m < exact.size(); ++m) {
      const double traces = exact[m] / sketched[m];  // trace over the exact one
      sum[m] += traces / kDraws;
      squares[m] += traces * traces / kDraws;
    }
  }
  for (size_t m = 0; m < exact.size(); ++m) {
    const double variance = squares[m] - sum[m] * sum[m];
    CAPTURE(m, sum[m], variance);
    CHECK(variance > 0);
    CHECK(std::abs(sum[m] - 1) < 4 * std::sqrt(variance / kDraws));
  }
  options.batch = 2;  // draws belong to samples, not to chunks
  const auto chunked = ratios(Softmax());
  options.batch = 5;
  const auto whole = ratios(Softmax());
  for (size_t m = 0; m < exact.size(); ++m) CHECK(chunked[m] == Approx(whole[m]).epsilon(1e-12));
  options.fisher = Fisher::kMonteCarlo;
  CHECK_THROWS_WITH(ratios(Softmax()), Catch::Contains("correction = sketch"));
}

TEST_CASE("of one column the sketched trace is the exact one", "[kron]") {
  const auto network = network_of(
      "input = [2, 4, 4]\nlayer = [{ type = 'conv', out = 3, kernel = 3 }, { type = 'tanh' }, "
      "{ type = 'flatten' }, { type = 'linear', out = 1 }]");
  randomise(*network, 1);
  const Samples data{random_tensor({5, 2, 4, 4}, 2), random_tensor({5, 1}, 3)};
  CurvatureOptions options;
  const auto exact = fit_curvature(*network, Gaussian(), data, options);
  options.correction = Correction::kSketch;
  const auto sketched = fit_curvature(*network, Gaussian(), data, options);
  for (size_t m = 0; m < exact.curvature->blocks().size(); ++m)
    CHECK(sketched.curvature->trace_ratios()[m] ==
          Approx(exact.curvature->trace_ratios()[m]).epsilon(1e-12));
}
