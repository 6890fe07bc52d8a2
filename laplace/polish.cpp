#include "laplace/polish.h"

#include <cmath>

namespace evariste {
namespace {

constexpr int kHalvings = 30;

double prior_log_density(const Priors& priors, const std::vector<const Block*>& blocks) {
  double sum = 0;
  for (size_t m = 0; m < priors.size(); ++m)
    sum += priors[m].log_density(seen_by_prior(*blocks[m])).item<double>();
  return sum;
}

/// F by a forward pass; infinity where the network overflows, so that a shorter step is tried.
double objective(Layer& network, const Likelihood& likelihood, const Samples& data,
                 const Priors& priors, const std::vector<const Block*>& blocks, double temperature,
                 int64_t batch) {
  double tempered = 0;
  for (int64_t begin = 0; begin < data.count(); begin += batch) {
    const auto count = std::min(batch, data.count() - begin);
    const auto f = network.forward(data.inputs(begin, count));
    const auto normaliser = likelihood.normaliser(f).sum(torch::kFloat64).item<double>();
    const auto log_density = likelihood.log_density(f, data.y.narrow(0, begin, count))
                                 .sum(torch::kFloat64)
                                 .item<double>();
    tempered += (log_density - normaliser) / temperature + normaliser;
  }
  tempered = data.sum(tempered);
  const auto value = -tempered * data.weight() - prior_log_density(priors, blocks);
  return std::isfinite(value) ? value : std::numeric_limits<double>::infinity();
}

}  // namespace

std::vector<PolishStep> polish(Layer& network, const Likelihood& likelihood, const Samples& data,
                               const Priors& priors, double temperature, CurvatureOptions options,
                               int64_t steps) {
  torch::NoGradGuard no_grad;
  options.bases = true;
  std::vector<PolishStep> taken;
  for (int64_t step = 0; step < steps; ++step) {
    const auto fit = fit_curvature(network, likelihood, data, options);
    auto& curvature = *fit.curvature;
    const auto& blocks = curvature.blocks();
    curvature.set_scale(likelihood.curvature_scale() / temperature);
    const auto precisions = precisions_of(priors, curvature);

    const auto gradient = log_likelihood_gradient(network, likelihood, data, blocks, options.batch);
    std::vector<Tensor> downhill, start;
    for (size_t m = 0; m < blocks.size(); ++m) {
      start.push_back(blocks[m]->value().clone());
      // float64: near the mode the two terms cancel.
      downhill.push_back(gradient.blocks[m].to(torch::kFloat64) / temperature -
                         precisions[m] * start[m].to(torch::kFloat64));
      expect_finite(downhill[m], blocks[m]->name + ": gradient of the objective");
    }
    const auto direction = curvature.solve(downhill, precisions);
    if (data.processes) agree(*data.processes, direction);

    const auto value = [&] {
      auto sum = torch::full(
          {1}, objective(network, likelihood, data, priors, blocks, temperature, options.batch),
          torch::kFloat64);
      if (data.processes) agree(*data.processes, {sum});  // all take the same step
      return sum.item<double>();
    };
    const auto before = value();
    PolishStep result{before, 0};
    const auto move = [&](double length) {
      for (size_t m = 0; m < blocks.size(); ++m)
        set_value(*blocks[m], start[m] + (length * direction[m]).to(start[m].scalar_type()));
    };
    double length = 1;
    for (int i = 0; i < kHalvings; ++i, length /= 2) {
      move(length);
      const auto after = value();
      if (after < result.objective) {
        result = {after, length};
      } else if (result.length > 0) {
        break;
      }
    }
    move(result.length);
    taken.push_back(result);
    if (result.length == 0) break;
  }
  return taken;
}

}  // namespace evariste
