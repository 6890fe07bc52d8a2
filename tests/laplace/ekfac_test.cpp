// EKFAC against its definition: the diagonal of the exact block in the basis of Kronecker factors.
#include "tests/catch.h"

#include "tests/laplace/brute_force.h"

using namespace evariste;

namespace {

struct Fits {
  Fit kron, ekfac, full;

  Fits(Network& network, const Samples& data, CurvatureOptions options = {})
      : kron(fit(network, data, options, Structure::kKron)),
        ekfac(fit(network, data, options, Structure::kEkfac)),
        full(fit(network, data, options, Structure::kFull)) {}

  static Fit fit(Network& network, const Samples& data, CurvatureOptions options,
                 Structure structure) {
    options.structure = structure;
    return fit_curvature(network, Softmax(), data, options);
  }
  static const KronCurvature& kron_of(const Fit& fit) {
    return static_cast<const KronCurvature&>(*fit.curvature);
  }
  Tensor exact(size_t m) const {
    return part_of(static_cast<const DenseCurvature&>(*full.curvature).hessian(),
                   full.curvature->blocks(), m);
  }
};

/// Entries of a diagonal [k_B, k_A] in the bases of factors with these eigenvalues: where some are
/// equal any basis among them is as good, and the mean over them is what all agree on.
Tensor mean_over_equals(const Tensor& diagonal, const Tensor& b, const Tensor& a) {
  const auto mean = [](const Tensor& values) {
    const auto apart = (values.unsqueeze(0) - values.unsqueeze(1)).abs();
    const auto near = 1e-3 * torch::maximum(values.unsqueeze(0), values.unsqueeze(1));
    const auto same = apart <= torch::minimum(near, 1e-13 * values.max());
    const auto weight = same.to(torch::kFloat64);
    return weight / weight.sum(1, true);
  };
  return mean(b).mm(diagonal).mm(mean(a).t());
}

}  // namespace

TEST_CASE("EKFAC's spectrum is the diagonal of the exact block in the Kronecker basis",
          "[laplace][ekfac]") {
  for (const auto& example : layer_examples()) {
    const auto network = example.build();
    for (const int64_t samples : {3, 20}) {  // thin bases and complete ones
      const Samples data{example.inputs(samples), random_labels(samples, 3, 3)};
      CurvatureOptions options;
      options.copies = Sharing::kExpand;  // as the basis of ekfac
      const Fits fits(*network, data, options);
      CHECK(fits.ekfac.curvature->structure() == "ekfac");
      CHECK(fits.ekfac.log_likelihood == Approx(fits.kron.log_likelihood));
      for (size_t m = 0; m < fits.full.curvature->blocks().size(); ++m) {
        CAPTURE(example.title, samples, fits.full.curvature->blocks()[m]->name);
        const auto& f = Fits::kron_of(fits.ekfac).factors()[m];
        const auto exact = fits.exact(m);
        const auto shape = fits.full.curvature->blocks()[m]->value().sizes().vec();
        const auto side = shape[1] * shape[2];
        for (int64_t q = 0; q < shape[0]; ++q) {
          const auto basis = torch::kron(f.b.basis[q], f.a.basis[q]);
          const auto part = exact.narrow(0, q * side, side).narrow(1, q * side, side);
          const auto diagonal = basis.t().mm(part).mm(basis).diagonal();
          const auto expected = mean_over_equals(diagonal.view({f.b.values.size(1), -1}),
                                                 f.b.values[q], f.a.values[q]);
          CHECK(torch::allclose(f.spectrum[q], expected, 1e-8, 1e-10));
        }
        CHECK(f.spectrum.sum().item<double>() ==
              Approx(exact.diagonal().sum().item<double>()).margin(1e-10));
        // The best diagonal in that basis: no further from the exact block than Kronecker factors.
        const auto kron = dense_kron(Fits::kron_of(fits.kron).factors()[m]);
        CHECK((dense_kron(f) - exact).norm().item<double>() <=
              (kron - exact).norm().item<double>() * (1 + 1e-9) + 1e-12);
      }
    }
  }
}

TEST_CASE("EKFAC's evidence of equal eigenvalues does not depend on the order of samples",
          "[laplace][ekfac]") {
  for (const auto type : {torch::kFloat64, torch::kFloat32}) {
    const auto network = network_of(
        "input = [1, 4, 4]\nlayer = [{ type = 'group_lift' }, { type = 'group_conv', out = 2, "
        "mix = false }, { type = 'tanh' }, { type = 'flatten' }, { type = 'linear', out = 3 }]");
    randomise(*network, 1);
    network->to(type);
    const auto x = random_tensor({12, 1, 4, 4}, 2).to(type);
    const auto y = random_labels(12, 3, 3);
    const auto log_det = [&](const Tensor& order) {
      const auto fit =
          fit_curvature(*network, Softmax(), {x.index_select(0, order), y.index_select(0, order)},
                        options_of(Structure::kEkfac));
      return fit.curvature->log_det_ratio(
          precisions_of(layerwise_priors(*fit.curvature, 0.01), *fit.curvature));
    };
    const auto order = torch::arange(12);
    CHECK(log_det(order.flip(0)) ==
          Approx(log_det(order)).epsilon(type == torch::kFloat64 ? 1e-10 : 1e-5));
  }
}

TEST_CASE("where Kronecker factors are exact EKFAC equals them", "[laplace][ekfac]") {
  const auto network =
      network_of("input = [4]\nlayer = [{ type = 'linear', out = 3, bias = false }]");
  randomise(*network, 1);
  const Samples data{random_tensor({12, 4}, 2), random_tensor({12, 3}, 3)};
  const auto kron = fit_curvature(*network, Gaussian(0.7), data, options_of(Structure::kKron));
  const auto ekfac = fit_curvature(*network, Gaussian(0.7), data, options_of(Structure::kEkfac));
  const auto& f = Fits::kron_of(ekfac).factors()[0];
  CHECK(torch::allclose(f.spectrum, Fits::kron_of(kron).factors()[0].eigenvalues(), 1e-10, 1e-12));
}

TEST_CASE("EKFAC of every Fisher has its trace, however the data are cut", "[laplace][ekfac]") {
  const auto network = network_of(
      "input = [1, 4, 4]\nlayer = [{ type = 'conv', out = 2, kernel = 3 }, { type = 'tanh' }, "
      "{ type = 'flatten' }, { type = 'linear', out = 3 }]");
  randomise(*network, 1);
  const Samples data{random_tensor({20, 1, 4, 4}, 2), random_labels(20, 3, 3), 60};
  for (const auto fisher :
       {Fisher::kExact, Fisher::kMonteCarlo, Fisher::kEmpirical, Fisher::kSketch}) {
    CurvatureOptions options = options_of(Structure::kEkfac);
    options.fisher = fisher;
    options.stream = Stream(5);
    const auto traces = fisher_traces(*network, Softmax(), data, options);
    std::vector<Tensor> first;
    for (const int64_t batch : {20, 7, 1}) {
      options.batch = batch;
      const auto fit = fit_curvature(*network, Softmax(), data, options);
      const auto& factors = Fits::kron_of(fit).factors();
      for (size_t m = 0; m < factors.size(); ++m) {
        CAPTURE(static_cast<int>(fisher), batch, m);
        CHECK(factors[m].spectrum.sum().item<double>() == Approx(traces[m]));
        if (batch == 20) first.push_back(factors[m].spectrum);
        CHECK(torch::allclose(factors[m].spectrum, first[m], 1e-7, 1e-9));
      }
    }
  }
}

TEST_CASE("EKFAC has no unique basis with reduced factors", "[laplace][ekfac]") {
  const auto network = network_of("input = [4]\nlayer = [{ type = 'linear', out = 3 }]");
  auto options = options_of(Structure::kEkfac);
  options.sharing = Sharing::kReduce;
  CHECK_THROWS_WITH(
      fit_curvature(*network, Softmax(),
                    {random_tensor({5, 4}, 1).to(torch::kFloat32), random_labels(5, 3, 3)},
                    options),
      Contains("ekfac") && Contains("expand"));
}

TEST_CASE("EKFAC's evidence is below that of the exact blocks, KFAC's on either side",
          "[laplace][ekfac]") {
  // Hadamard: log|diag of a matrix| >= log|matrix|, in any basis and at every precision.
  bool above = false, below = false;
  for (const auto& example : layer_examples()) {
    const auto network = example.build();
    const Samples data{example.inputs(5), random_labels(5, 3, 3)};
    CurvatureOptions options;
    options.copies = Sharing::kExpand;
    const Fits fits(*network, data, options);
    const auto block = Fits::fit(*network, data, options, Structure::kBlock);
    for (const double precision : {1e-3, 1.0, 100.0}) {
      CAPTURE(example.title, precision);
      const auto ratios = [&](const Fit& fit) {
        const auto precisions =
            precisions_of(layerwise_priors(*fit.curvature, precision), *fit.curvature);
        return fit.curvature->log_det(precisions);
      };
      const auto exact = ratios(block), ekfac = ratios(fits.ekfac), kfac = ratios(fits.kron);
      for (size_t m = 0; m < exact.size(); ++m) {
        CAPTURE(fits.kron.curvature->blocks()[m]->name);
        CHECK(ekfac[m].ratio >= exact[m].ratio * (1 - 1e-9) - 1e-9);
        above = above || kfac[m].ratio > 1.05 * exact[m].ratio;
        below = below || kfac[m].ratio < 0.95 * exact[m].ratio;
      }
    }
  }
  CHECK(above);
  CHECK(below);
}
