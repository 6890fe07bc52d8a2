// The installed package, used from outside: a prior and a layer of one's own, with their evidence.
#include <torch/torch.h>

#include <cmath>
#include <cstdio>
#include <numbers>

#include <laplace/evidence.h>
#include <laplace/prior_fit.h>
#include <nn/combine.h>
#include <nn/linear.h>
#include <nn/linear_map.h>
#include <nn/pointwise.h>

namespace ev = evariste;
using torch::Tensor;

/// theta ~ multivariate Student-t over the whole block: a Gaussian whose precision was integrated
/// out under Gamma(nu/2, nu/(2 d)). log d, that of the typical precision, is learned; heavy tails
/// forgive a few large weights.
class StudentT {
 public:
  static constexpr std::string_view kName = "student-t";

  explicit StudentT(double degrees = 4.0, double precision = 1.0)
      : degrees_(degrees), log_precision_(ev::log_leaf(precision)) {}

  Tensor log_density(const Tensor& theta) const {
    const auto n = static_cast<double>(theta.numel());
    const auto spread = degrees_ * (-log_precision_).exp();
    return std::lgamma(0.5 * (degrees_ + n)) - std::lgamma(0.5 * degrees_) -
           0.5 * n * (spread.log() + std::log(std::numbers::pi)) -
           0.5 * (degrees_ + n) * (theta.square().sum() / spread).log1p();
  }
  Tensor precision(const Tensor& theta) const {
    const auto n = static_cast<double>(theta.numel());
    return (degrees_ + n) / (degrees_ * (-log_precision_).exp() + theta.square().sum());
  }
  ev::NamedTensors hyperparameters() const { return {{"log_precision", log_precision_}}; }

 private:
  double degrees_;
  Tensor log_precision_;
};
static_assert(ev::LayerPrior<StudentT>);

/// y = W phi(x) with phi(x) = differences of neighbouring inputs. Only phi and the layout of the
/// output are given; backward, curvature, evidence and predictive follow.
class DifferenceBlock : public ev::Block {
 public:
  using Block::Block;
  Tensor phi(const Tensor& x) const override {  // [n, D] -> [1, n, 1, D]
    return (x - x.roll(1, 1)).reshape({1, x.size(0), 1, -1});
  }
  Tensor to_positions(const Tensor& y) const override { return y.reshape({1, y.size(0), 1, -1}); }
  Tensor from_positions(const Tensor& y, const Tensor&) const override { return y[0].squeeze(1); }
};

class DifferenceLinear : public ev::LinearMap {
 public:
  DifferenceLinear(int64_t inputs, int64_t outputs) {
    const auto w = register_parameter("weight", torch::randn({outputs, inputs}) / 4);
    set_blocks(std::make_unique<DifferenceBlock>(w), nullptr);
  }
};

int main() {
  torch::manual_seed(0);
  torch::set_default_dtype(caffe2::TypeMeta::Make<double>());
  const auto net = std::make_shared<ev::Sequential>();  // modules live in shared pointers
  auto& network = *net;
  network.append(std::make_shared<DifferenceLinear>(6, 5));
  network.append(std::make_shared<ev::Activation>("tanh"));
  network.append(std::make_shared<ev::Linear>(5, 3));
  network.eval();

  const ev::Samples data = {torch::randn({40, 6}), torch::randint(3, {40}, torch::kInt64), 0};
  const ev::Softmax likelihood;
  const auto fit = ev::fit_curvature(network, likelihood, data, ev::CurvatureOptions());
  ev::Priors priors;
  for (size_t m = 0; m < fit.curvature->blocks().size(); ++m) priors.emplace_back(StudentT());
  const auto before = ev::evaluate_evidence(fit, likelihood, priors);
  ev::fit_priors_newton(priors, *fit.curvature);
  const auto after = ev::evaluate_evidence(fit, likelihood, priors);
  std::printf("log evidence %.3f with scale 1, %.3f with the fitted scales\n", before.log_evidence,
              after.log_evidence);
  for (const auto& block : after.blocks)
    std::printf("%-10s precision %8.3f, effective dimension %6.2f of %lld\n", block.name.c_str(),
                block.prior_precision, block.effective_dimension,
                static_cast<long long>(block.parameters));
  return after.log_evidence > before.log_evidence ? 0 : 1;
}
