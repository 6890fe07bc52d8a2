#include "laplace/predictive.h"

#include <cmath>
#include <numbers>

#include "core/error.h"
#include "laplace/block_index.h"

namespace evariste {
namespace {

constexpr double kProbitFactor = std::numbers::pi / 8;

/// Draws [S, n, C] of N(f, V).
Tensor output_draws(const OutputDistribution& outputs, const Stream& stream, int64_t draws) {
  const auto n = outputs.mean.size(0), classes = outputs.mean.size(1);
  auto z = torch::empty({draws, n, classes}, torch::kFloat64);
  auto out = z.accessor<double, 3>();
  for (int64_t i = 0; i < n; ++i) {
    Draws numbers(stream.split(static_cast<uint64_t>(i)));
    for (int64_t s = 0; s < draws; ++s)
      for (int64_t c = 0; c < classes; ++c) out[s][i][c] = numbers.normal();
  }
  const auto v = outputs.covariance.to(torch::kFloat64);
  z = z.to(v.device());
  // Rounding leaves V singular or slightly indefinite: jitter relative to its trace.
  const auto eye = torch::eye(classes, v.options());
  Tensor root;
  for (double jitter = 1e-12; !root.defined(); jitter *= 100) {
    const auto scale = v.diagonal(0, 1, 2).mean(1).clamp_min(1e-300);
    auto [factor, info] = at::linalg_cholesky_ex(v + (jitter * scale).view({-1, 1, 1}) * eye);
    if (info.abs().max().item<int64_t>() == 0) root = factor;
    if (jitter > 1e-2)
      throw NumericalError("predictive: the covariance of the outputs is not positive definite");
  }
  const auto shift = root.unsqueeze(0).matmul(z.unsqueeze(3)).squeeze(3);
  return outputs.mean.to(torch::kFloat64).unsqueeze(0) + shift;
}

Tensor bridge(const OutputDistribution& outputs) {
  const auto v = outputs.covariance.to(torch::kFloat64);
  const auto classes = static_cast<double>(v.size(1));
  const auto rows = v.sum(2), total = v.sum({1, 2});  // [n, C], [n]
  const auto sum = outputs.mean.to(torch::kFloat64).sum(1);
  // Condition N(f, V) on sum f = 0: the Dirichlet's image under the logit map has none other.
  const auto f = outputs.mean.to(torch::kFloat64) - rows * (sum / total).unsqueeze(1);
  const auto variance = v.diagonal(0, 1, 2) - rows.square() / total.unsqueeze(1);
  const auto alpha = (1 - 2 / classes + f.exp() / (classes * classes) * (-f).exp().sum(1, true)) /
                     variance.clamp_min(1e-300);
  return alpha / alpha.sum(1, true);
}

}  // namespace

OutputDistribution output_distribution(Layer& network, const Tensor& x, const Curvature& curvature,
                                       const Priors& priors, int64_t batch) {
  torch::NoGradGuard no_grad;
  expect_evaluation_mode(network);
  const auto precisions = precisions_of(priors, curvature);
  const BlockIndex index(curvature.blocks());
  std::vector<Tensor> means, covariances;
  for (int64_t begin = 0; begin < x.size(0); begin += batch) {
    const auto count = std::min(batch, x.size(0) - begin);
    Tape tape;
    const auto f = network.forward(x.narrow(0, begin, count), &tape);
    expect_finite(f, "network outputs");
    const auto basis =
        torch::eye(f.size(1), f.options()).unsqueeze(1).expand({-1, count, -1}).contiguous();
    std::vector<Curvature::Visit> visits(curvature.blocks().size());
    network.backward(
        basis, tape,
        [&](const Block& block, const Tensor& input, const Tensor& g) {
          if (const auto found = index(block); found >= 0) {
            const auto m = static_cast<size_t>(found);
            visits[m] = {curvature.blocks()[m], input, g};
          }
        },
        false);
    means.push_back(f);
    covariances.push_back(curvature.output_covariance(visits, precisions));
  }
  return {torch::cat(means), torch::cat(covariances)};
}

Tensor predict(const OutputDistribution& outputs, const Likelihood& likelihood, Link link,
               const Stream& stream, int64_t draws) {
  if (link == Link::kMap) return likelihood.predict(outputs.mean);
  if (likelihood.is_regression())
    throw UsageError(
        "predictive: regression is Gaussian with mean f and variance V + sigma^2; use map");
  if (link == Link::kMc) {
    const auto f = output_draws(outputs, stream, draws);
    const auto flat = likelihood.predict(f.flatten(0, 1));
    return flat.view(f.sizes()).mean(0);
  }
  if (link == Link::kProbit) {
    const auto variance = outputs.covariance.diagonal(0, 1, 2);
    return likelihood.predict(outputs.mean * (1 + kProbitFactor * variance).rsqrt());
  }
  if (likelihood.name() != "classification")
    throw UsageError(
        "predictive: the Laplace bridge is defined for classification only; use probit");
  return bridge(outputs);
}

Metrics classification_metrics(const Tensor& probabilities, const Tensor& y) {
  constexpr int64_t kBins = 15;
  const auto p = probabilities.to(torch::kFloat64);
  const auto nan = std::numeric_limits<double>::quiet_NaN();
  Metrics m;
  m.rmse = nan;
  const auto [confidence, label] = p.max(1);
  const auto right = (label == y).to(torch::kFloat64);
  m.accuracy = right.mean().item<double>();
  m.nll = -p.gather(1, y.unsqueeze(1)).clamp_min(1e-300).log().mean().item<double>();
  const auto bin = (confidence * kBins).to(torch::kLong).clamp(0, kBins - 1);
  auto gap = torch::zeros({kBins}, right.options());
  gap.index_add_(0, bin, right - confidence);
  m.ece = gap.abs().sum().item<double>() / static_cast<double>(y.size(0));
  return m;
}

Metrics bernoulli_metrics(const Tensor& probabilities, const Tensor& y) {
  constexpr int64_t kBins = 15;
  const auto p = probabilities.to(torch::kFloat64).clamp(1e-300, 1.0);
  const auto target = y.to(torch::kFloat64);
  Metrics m;
  m.rmse = std::numeric_limits<double>::quiet_NaN();
  const auto right = ((p > 0.5) == (target > 0.5)).to(torch::kFloat64);
  m.accuracy = right.mean().item<double>();
  m.nll = -(torch::xlogy(target, p) + torch::xlogy(1 - target, (1 - p).clamp_min(1e-300)))
               .sum(1)
               .mean()
               .item<double>();
  // Each output is a decision of its own, held with confidence max(p, 1 - p).
  const auto confidence = torch::maximum(p, 1 - p).flatten();
  const auto bin = (confidence * kBins).to(torch::kLong).clamp(0, kBins - 1);
  auto gap = torch::zeros({kBins}, right.options());
  gap.index_add_(0, bin, right.flatten() - confidence);
  m.ece = gap.abs().sum().item<double>() / static_cast<double>(y.numel());
  return m;
}

Metrics regression_metrics(const Tensor& mean, const Tensor& variance, const Tensor& y) {
  const auto error = (y - mean).to(torch::kFloat64);
  const auto v = variance.to(torch::kFloat64);
  Metrics m;
  m.accuracy = m.ece = std::numeric_limits<double>::quiet_NaN();
  m.nll =
      (0.5 * (error.square() / v + (2 * std::numbers::pi * v).log())).sum(1).mean().item<double>();
  m.rmse = std::sqrt(error.square().mean().item<double>());
  return m;
}

}  // namespace evariste
