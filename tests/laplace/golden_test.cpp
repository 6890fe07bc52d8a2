// Published golden values of layer-wise evidence, recomputed by the engine. Data are
// ramp(shape, s)[i] = sin(0.7 i + s). tests/oracle/golden.py derives them from plain formulas.
#include "tests/catch.h"

#include "laplace/prior_fit.h"
#include "tests/laplace/brute_force.h"

using namespace evariste;

namespace {

CurvatureOptions uncorrected(Sharing sharing = Sharing::kExpand,
                             BiasCurvature bias = BiasCurvature::kExact) {
  CurvatureOptions options;
  options.correction = Correction::kNone;
  options.sharing = sharing;
  options.bias = bias;
  return options;
}

const KronFactor& factor_of(const Fit& fit, const std::string& name) {
  const auto& kron = dynamic_cast<const KronCurvature&>(*fit.curvature);
  for (size_t m = 0; m < kron.blocks().size(); ++m)
    if (kron.blocks()[m]->name == name) return kron.factors()[m];
  throw std::runtime_error("no block " + name);
}

/// log|B (x) A + delta I|
double log_det(const KronFactor& f, double delta) {
  const auto p = static_cast<double>(f.a.groups() * f.a.dimension() * f.b.dimension());
  return spectral_sums(f, 1.0, delta).log1p + p * std::log(delta);
}

double log_det(const Tensor& h, double delta) {
  return torch::logdet(h + delta * torch::eye(h.size(0), h.options())).item<double>();
}

void check_values(const Tensor& found, const std::vector<double>& expected, double margin = 1e-13) {
  REQUIRE(found.numel() == static_cast<int64_t>(expected.size()));
  for (size_t i = 0; i < expected.size(); ++i)
    CHECK(found.flatten()[static_cast<int64_t>(i)].item<double>() ==
          Approx(expected[i]).margin(margin));
}

auto digits(double value) { return Approx(value).epsilon(1e-12); }

}  // namespace

TEST_CASE("golden: linear layer with softmax", "[laplace][golden]") {
  const auto network = network_of("input = [3]\nlayer = [{ type = 'linear', out = 3 }]");
  set_parameters(*network, {ramp({3, 3}, 0.5), ramp({3}, 0.9)});
  const Samples data{ramp({4, 3}, 0.1), torch::tensor({0, 2, 1, 1})};

  const auto fit = fit_curvature(*network, Softmax(), data, uncorrected());
  CHECK(fit.log_likelihood == digits(-6.625864583825023));
  check_values(factor_of(fit, "0.weight").a.values, {0, 0.37232505675801, 1.13530306474504});
  check_values(factor_of(fit, "0.weight").b.values, {0, 0.55355605653269, 0.86315246109979});

  const auto priors = layerwise_priors(*fit.curvature, {0.5, 2.0});
  const auto e = evaluate_evidence(fit, Softmax(), priors);
  CHECK(e.log_evidence == digits(-11.588480311137921));
  CHECK(e.blocks[0].effective_dimension == digits(1.902215439918334));
  CHECK(e.blocks[1].effective_dimension == digits(0.518247764510549));
  CHECK(e.blocks[0].squared_norm == digits(4.487599598276567));
  CHECK(e.blocks[1].squared_norm == digits(2.168824698711448));
  CHECK(e.blocks[0].evidence_gradient == Approx(-0.17079217960997).epsilon(1e-12));
  CHECK(e.blocks[1].evidence_gradient == Approx(-1.90970081645617).epsilon(1e-12));

  auto options = uncorrected();
  options.structure = Structure::kFull;
  const auto full = fit_curvature(*network, Softmax(), data, options);
  CHECK(evaluate_evidence(full, Softmax(), priors).log_evidence == digits(-11.488984790330235));
  const auto& h = dynamic_cast<const DenseCurvature&>(*full.curvature).hessian();
  const auto& blocks = full.curvature->blocks();
  const auto apart = log_det_ratio(part_of(h, blocks, 0), torch::tensor(0.5, torch::kFloat64)) +
                     log_det_ratio(part_of(h, blocks, 1), torch::tensor(2.0, torch::kFloat64));
  CHECK(e.log_likelihood - 0.5 * (apart + e.scatter) == digits(-11.545171596497665));

  fit_priors_newton(priors, *fit.curvature);
  const auto fitted = precisions_of(priors, *fit.curvature);
  CHECK(fitted[0].item<double>() == Approx(0.4468429721870971).epsilon(1e-9));
  CHECK(fitted[1].item<double>() == Approx(0.5238377565954442).epsilon(1e-9));
}

TEST_CASE("golden: circular convolution, expand, reduce and exact", "[laplace][golden]") {
  const auto network = network_of(
      "input = [2, 4, 4]\nlayer = [{ type = 'conv', out = 3, kernel = 3, padding = 1, "
      "padding_mode = 'circular' }, { type = 'tanh' }, { type = 'global_avgpool' }, "
      "{ type = 'linear', out = 3, bias = false }]");
  set_parameters(*network, {ramp({3, 2, 3, 3}, 0.5), ramp({3}, 0.9), ramp({3, 3}, 0.2)});
  const Samples data{ramp({2, 2, 4, 4}, 0.1), torch::tensor({0, 1})};
  torch::NoGradGuard no_grad;
  CHECK(network->layers()[0]->forward(data.x).sum().item<double>() == digits(80.91750350461604));

  const auto fit = fit_curvature(*network, Softmax(), data, uncorrected());
  const auto& expand = factor_of(fit, "0.weight");
  CHECK(expand.a.traces().item<double>() == digits(141.57939390618577));
  CHECK(expand.b.traces().item<double>() == digits(0.002455530577426356));
  CHECK(log_det(expand, 0.3) == digits(-63.933668989702355));
  CHECK(factor_of(fit, "0.bias").b.traces().item<double>() == digits(0.24582576065200376));

  const auto reduce = fit_curvature(*network, Softmax(), data, uncorrected(Sharing::kReduce));
  CHECK(log_det(factor_of(reduce, "0.weight"), 0.3) == digits(-64.9029960792091));
  const auto expanded = fit_curvature(*network, Softmax(), data,
                                      uncorrected(Sharing::kExpand, BiasCurvature::kExpand));
  CHECK(factor_of(expanded, "0.bias").b.traces().item<double>() == digits(0.039288489238821694));

  const auto full = fit_curvature(*network, Softmax(), data, options_of(Structure::kFull));
  const auto& h = dynamic_cast<const DenseCurvature&>(*full.curvature).hessian();
  CHECK(log_det(part_of(h, full.curvature->blocks(), 0), 0.3) == digits(-64.30404087040719));
  CHECK(part_of(h, full.curvature->blocks(), 1).trace().item<double>() ==
        digits(0.24582576065200376));
}

TEST_CASE("golden: convolution with zero padding", "[laplace][golden]") {
  const auto network = network_of(
      "input = [2, 4, 4]\nlayer = [{ type = 'conv', out = 3, kernel = 3, padding = 1 }, "
      "{ type = 'tanh' }, { type = 'global_avgpool' }, { type = 'linear', out = 3, bias = false "
      "}]");
  set_parameters(*network, {ramp({3, 2, 3, 3}, 0.5), ramp({3}, 0.9), ramp({3, 3}, 0.2)});
  const Samples data{ramp({2, 2, 4, 4}, 0.1), torch::tensor({0, 1})};
  CHECK(network->layers()[0]->forward(data.x).sum().item<double>() == digits(61.79500541726935));
  const auto fit = fit_curvature(*network, Softmax(), data, uncorrected());
  CHECK(factor_of(fit, "0.weight").a.traces().item<double>() == digits(96.48490705467019));
  CHECK(log_det(factor_of(fit, "0.weight"), 0.3) == digits(-64.39830158494463));
}

TEST_CASE("golden: factored fully connected layer", "[laplace][golden]") {
  // The published case maps four positions to two, which no stride does: of four outputs two have
  // no weight anywhere.
  const auto pair = network_of(
      "input = [2, 4, 1]\nlayer = [{ type = 'factored_fc', out = 3 }, { type = 'flatten' }, "
      "{ type = 'linear', out = 3, bias = false }]");
  auto v = torch::zeros({4, 3, 2}, torch::kFloat64), bias_v = torch::zeros({4}, torch::kFloat64);
  auto head = torch::zeros({3, 3, 4}, torch::kFloat64);
  v.narrow(0, 0, 2).copy_(ramp({2, 3, 2}, 0.6));
  bias_v.narrow(0, 0, 2).copy_(ramp({2}, 1.7));
  head.narrow(2, 0, 2).copy_(ramp({3, 6}, 0.2).view({3, 3, 2}));
  set_parameters(*pair, {ramp({3, 2, 4}, 0.3), ramp({3}, 1.1), v, bias_v, head});
  const Samples data{ramp({3, 2, 4}, 0.1).view({3, 2, 4, 1}), torch::tensor({0, 1, 2})};

  torch::NoGradGuard no_grad;
  const auto y = pair->layers()[0]->forward(data.x);  // [3, 3, 4, 1]
  CHECK(y.sum().item<double>() == digits(32.064930425013316));
  check_values(y[0].squeeze(2).narrow(1, 0, 2),
               {5.527710029424454, -4.4288475412132975, 4.671225567643393, 1.9662103424103394,
                -0.2764039578859765, 2.9486796765706944});

  const auto fit = fit_curvature(*pair, Softmax(), data, uncorrected());
  // 2 x 6 entries of V see no data; each adds log(delta) to the log-determinant.
  const double unseen = 12 * std::log(1.3);
  CHECK(log_det(factor_of(fit, "0.U"), 0.7) == digits(-4.540601005103792));
  CHECK(log_det(factor_of(fit, "0.V"), 1.3) - unseen == digits(10.918035010758942));
  check_values(factor_of(fit, "0.bias_U").b.values, {0, 0.04557714864256, 4.98199222950943});
  check_values(factor_of(fit, "0.bias_V").b.values, {0, 0, 0.05027746886612, 2.05090901720347});

  // Biases with positions as independent samples.
  std::map<std::string, Tensor> expanded;
  Tape tape;
  const auto columns = Softmax().hessian_root(pair->forward(data.x, &tape));
  pair->backward(
      columns, tape,
      [&](const Block& block, const Tensor&, const Tensor& g) {
        if (block.is_bias)
          expanded[block.name] =
              at::linalg_eigvalsh(output_factor(block, g, Sharing::kExpand), "L");
      },
      false);
  check_values(expanded["0.bias_U"], {0.01766229379947, 0.10279470272457, 2.67574102336087});
  check_values(expanded["0.bias_V"], {0, 0, 0.41974049750650, 3.85456533296762});

  const auto full = fit_curvature(*pair, Softmax(), data, options_of(Structure::kFull));
  const auto& h = dynamic_cast<const DenseCurvature&>(*full.curvature).hessian();
  const auto& blocks = full.curvature->blocks();
  CHECK(log_det(part_of(h, blocks, 0), 0.7) == digits(-5.47472783082103));
  CHECK(log_det(part_of(h, blocks, 2), 1.3) - unseen == digits(8.400016144752493));

  // One sample: the groups of U are exact.
  const Samples first{data.x.narrow(0, 0, 1), data.y.narrow(0, 0, 1)};
  const auto alone = fit_curvature(*pair, Softmax(), first, uncorrected());
  CHECK(log_det(factor_of(alone, "0.U"), 0.7) == digits(-7.333729135202206));
  const auto exact = part_of(dense_ggn(*pair, Softmax(), first.x, alone.curvature->blocks()),
                             alone.curvature->blocks(), 0);
  CHECK(log_det(exact.narrow(0, 0, 12).narrow(1, 0, 12), 0.7) +
            log_det(exact.narrow(0, 12, 12).narrow(1, 12, 12), 0.7) ==
        digits(-7.333729135202206));
}
