// Learns a bandwidth by the evidence: the labels depend on the mean of five neighbours, and there
// are hardly more examples than inputs, so that the right blur helps.
#include <torch/torch.h>

#include <cstdio>

#include "blurred_linear.h"

#include <laplace/hyper_gradient.h>
#include <laplace/polish.h>
#include <laplace/prior_fit.h>
#include <laplace/priors/isotropic_gaussian.h>
#include <nn/combine.h>

namespace ev = evariste;

int main() {
  torch::manual_seed(1);
  constexpr int64_t kSamples = 100, kInputs = 40, kOutputs = 3;
  const auto x = torch::randn({kSamples, kInputs}, torch::kFloat64);
  const auto smooth =
      at::conv1d(x.unsqueeze(1), torch::full({1, 1, 5}, 0.2, torch::kFloat64), {}, 1, 2).squeeze(1);
  const auto y = smooth.matmul(torch::randn({kInputs, kOutputs}, torch::kFloat64)).argmax(1);

  const auto net = std::make_shared<ev::Sequential>();
  auto& network = *net;
  const auto layer = std::make_shared<blurred::BlurredLinear>(kInputs, kOutputs, 0.3);
  network.append(layer);
  network.to(torch::kFloat64);
  network.eval();

  const ev::Softmax likelihood;
  const ev::Samples data{x, y};
  ev::CurvatureOptions options;
  std::vector<std::shared_ptr<ev::Block>> owned;
  ev::Priors priors;
  for (const auto* block : ev::curvature_blocks(network, options, owned)) {
    (void)block;
    priors.emplace_back(ev::IsotropicGaussian(1.0));
  }
  double first = 0, last = 0;
  for (int step = 0; step <= 40; ++step) {
    ev::polish(network, likelihood, data, priors, 1.0, options, 5);  // to the mode
    const auto fit = ev::fit_curvature(network, likelihood, data, options);
    ev::fit_priors_newton(priors, *fit.curvature);
    const auto evidence = ev::evaluate_evidence(fit, likelihood, priors);
    if (step == 0) first = evidence.log_evidence;
    last = evidence.log_evidence;
    const auto cotangents = ev::log_det_cotangents(fit, likelihood, priors);
    layer->log_bandwidth.mutable_grad() = torch::Tensor();
    ev::evidence_surrogate(network, likelihood, data, fit, cotangents, options).backward();
    const double slope = layer->log_bandwidth.grad().item<double>();
    if (step % 8 == 0)
      std::printf("step %2d  bandwidth %.3f  log evidence %.3f  slope %+.3f\n", step,
                  layer->log_bandwidth.exp().item<double>(), evidence.log_evidence, slope);
    torch::NoGradGuard no_grad;
    layer->log_bandwidth += std::clamp(0.05 * slope, -0.1, 0.1);
  }
  return last > first ? 0 : 1;
}
