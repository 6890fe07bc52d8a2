// Properties of every prior in the list of builtin.h.
#include "tests/catch.h"

#include <torch/csrc/autograd/autograd.h>

#include "core/error.h"
#include "laplace/priors/builtin.h"
#include "tests/nn/layer_examples.h"

using namespace evariste;

namespace {

const std::vector<int64_t> kShape = {1, 3, 5};  // what the priors of the list are made for

/// Central difference of a scalar function in every entry of a tensor, which is changed in place.
template <class F>
Tensor central_difference(const F& value, Tensor t) {
  torch::NoGradGuard no_grad;
  constexpr double kStep = 1e-5;
  auto out = torch::zeros(t.sizes(), torch::kFloat64);
  auto flat = t.view(-1), result = out.view(-1);
  for (int64_t i = 0; i < flat.numel(); ++i) {
    const auto old = flat[i].item<double>();
    flat[i] = old + kStep;
    const auto up = value();
    flat[i] = old - kStep;
    result[i] = (up - value()) / (2 * kStep);
    flat[i] = old;
  }
  return out;
}

/// With hyper-parameters that are no longer those of the default.
template <class P>
P moved() {
  torch::NoGradGuard no_grad;
  P prior;
  uint64_t seed = 7;
  for (auto& [name, h] : prior.hyperparameters())
    Tensor(h).add_(0.5 * random_tensor(h.sizes(), seed++));
  return prior;
}

std::string message_of(const std::string& toml) {
  const auto table = toml::parse(toml);
  try {
    make_prior({table, 1.0, kShape});
  } catch (const UsageError& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("every prior differentiates its density", "[prior]", BuiltinPriorTypes) {
  const auto prior = moved<TestType>();
  auto theta = random_tensor(kShape, 1).requires_grad_();
  const auto density = [&] { return prior.log_density(theta).template item<double>(); };
  CHECK(prior.log_density(theta).dim() == 0);
  REQUIRE(!prior.hyperparameters().empty());
  for (const auto& [name, h] : prior.hyperparameters()) {
    CAPTURE(name);
    CHECK(h.is_leaf());
    CHECK(h.requires_grad());
    CHECK(h.scalar_type() == torch::kFloat64);
    const auto gradient = torch::autograd::grad({prior.log_density(theta)}, {h})[0];
    CHECK(torch::allclose(gradient, central_difference(density, h), 1e-7, 1e-7));
  }
  const auto gradient = torch::autograd::grad({prior.log_density(theta)}, {theta})[0];
  CHECK(torch::allclose(gradient, central_difference(density, theta), 1e-7, 1e-7));
}

TEMPLATE_LIST_TEST_CASE("every prior's precision is the one that pulls", "[prior]",
                        BuiltinPriorTypes) {
  const auto prior = moved<TestType>();
  const auto theta = random_tensor(kShape, 1).requires_grad_();
  const auto precision = prior.precision(theta);
  CHECK((precision.dim() == 0 || precision.sizes() == theta.sizes()));
  CHECK((precision > 0).all().template item<bool>());
  const auto pull = -torch::autograd::grad({prior.log_density(theta)}, {theta})[0];
  CHECK(torch::allclose(pull, (precision * theta).expand_as(theta), 1e-12, 1e-12));
}

TEMPLATE_LIST_TEST_CASE("every prior is in the list under its name, and a handle shares", "[prior]",
                        BuiltinPriorTypes) {
  REQUIRE(builtin_priors().count(TestType::kName) == 1);
  const auto table = toml::parse(fmt::format("type = '{}'", TestType::kName));
  const auto prior = make_prior({table, 2.5, kShape});
  CHECK(prior.name() == TestType::kName);
  const auto theta = random_tensor(kShape, 1);
  CHECK(torch::allclose(prior.precision(theta), torch::tensor(2.5, torch::kFloat64)));
  const Prior copy = prior;
  torch::NoGradGuard no_grad;
  Tensor(copy.hyperparameters()[0].second).add_(1.0);
  CHECK(torch::equal(prior.precision(theta), copy.precision(theta)));
  CHECK_FALSE(torch::allclose(prior.precision(theta), torch::tensor(2.5, torch::kFloat64)));
}

TEST_CASE("Gaussian priors integrate to one over theta, the hyper-prior over both", "[prior]") {
  CHECK(builtin_priors().size() == std::tuple_size_v<BuiltinPriorTypes>);
  torch::NoGradGuard no_grad;
  constexpr double kStep = 0.05;
  const auto theta = torch::arange(-12, 12, kStep, torch::kFloat64);
  const auto mass = [&](const Prior& prior) {
    double sum = 0;
    for (int64_t i = 0; i < theta.numel(); ++i)
      sum += kStep * prior.log_density(theta[i].view({1, 1, 1})).exp().item<double>();
    return sum;
  };
  const std::vector<int64_t> one = {1, 1, 1};
  CHECK(mass(IsotropicGaussian(1.7)) == Approx(1).epsilon(1e-9));
  CHECK(mass(DiagonalGaussian(1.7, one)) == Approx(1).epsilon(1e-9));
  double both = 0;
  for (double rho = -2; rho < 4; rho += 0.1)
    both +=
        0.1 *
        std::exp(Prior(GammaGaussian(std::exp(rho), 9.0, 4.0)).log_hyper_density().item<double>());
  CHECK(both == Approx(1).epsilon(1e-3));
}

TEST_CASE("without a type the prior is isotropic", "[prior]") {
  const toml::table empty;
  CHECK(make_prior({empty, 1.0, kShape}).name() == IsotropicGaussian::kName);
}

TEST_CASE("unknown priors and keys are refused with the nearest name", "[prior]") {
  const auto prior = message_of("type = 'isotropic-gausian'");
  CHECK(prior.find("prior.type") == 0);
  CHECK(prior.find("did you mean \"isotropic-gaussian\"") != std::string::npos);
  const auto key = message_of("type = 'gamma-gaussian'\nshap = 2");
  CHECK(key.find("[prior]") != std::string::npos);
  CHECK(key.find("did you mean \"shape\"") != std::string::npos);
  // How the evidence moves a prior is no key of the prior.
  CHECK(message_of("update = 'none'").find("\"update\"") != std::string::npos);
  // Keys are those of the type that is asked for.
  CHECK(message_of("type = 'gamma-gaussian'\nrate = 0.1\nshape = 2") == "no error");
  CHECK(message_of("rate = 0.1").find("\"rate\"") != std::string::npos);
  CHECK(message_of("type = 'gamma-gaussian'\nrate = -1") ==
        "prior.rate: expected a positive number, found -1");
}
