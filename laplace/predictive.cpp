#include "laplace/predictive.h"

#include <cmath>
#include <numbers>

#include "core/error.h"
#include "laplace/block_index.h"

namespace evariste {
namespace {

constexpr double kProbitFactor = std::numbers::pi / 8;

/// log alpha [n, C] of the Dirichlet.
Tensor bridge(const OutputDistribution& outputs) {
  const auto v = outputs.covariance.to(torch::kFloat64);
  const auto classes = static_cast<double>(v.size(1));
  const auto rows = v.sum(2), total = v.sum({1, 2});  // [n, C], [n]
  const auto sum = outputs.mean.to(torch::kFloat64).sum(1);
  // Condition N(f, V) on sum f = 0: the Dirichlet's image under the logit map has none other.
  const auto f = outputs.mean.to(torch::kFloat64) - rows * (sum / total).unsqueeze(1);
  const auto variance = v.diagonal(0, 1, 2) - rows.square() / total.unsqueeze(1);
  // log(1 - 2/C + e^f/C^2 sum e^-f): the exponentials alone overflow where outputs are far apart.
  const auto product = f - 2 * std::log(classes) + (-f).logsumexp(1, true);
  const auto rest = torch::full({}, 1 - 2 / classes, torch::kFloat64).log();
  return torch::logaddexp(product, rest) - variance.clamp_min(1e-300).log();
}

/// log p of every label that classification has, [n, C].
Tensor class_log_probabilities(const OutputDistribution& outputs, Link link, const Stream& stream,
                               int64_t draws, int64_t first) {
  const auto mean = outputs.mean.to(torch::kFloat64);
  if (link == Link::kMap) return mean.log_softmax(1);
  if (link == Link::kBridge) return bridge(outputs).log_softmax(1);
  if (link == Link::kMc)
    return output_samples(outputs, stream, draws, first).log_softmax(2).logsumexp(0) -
           std::log(static_cast<double>(draws));
  const auto variance = outputs.covariance.to(torch::kFloat64).diagonal(0, 1, 2);
  return (mean * (1 + kProbitFactor * variance).rsqrt()).log_softmax(1);
}

/// log P(label = 1) and log P(label = 0) of every output, [n, C] each.
std::pair<Tensor, Tensor> binary_log_probabilities(const OutputDistribution& outputs, Link link,
                                                   const Stream& stream, int64_t draws,
                                                   int64_t first) {
  if (link == Link::kMc) {
    const auto f = output_samples(outputs, stream, draws, first);
    const auto mean = [&](const Tensor& log_p) {
      return log_p.logsumexp(0) - std::log(static_cast<double>(draws));
    };
    return {mean(at::log_sigmoid(f)), mean(at::log_sigmoid(-f))};
  }
  auto f = outputs.mean.to(torch::kFloat64);
  if (link == Link::kProbit)
    f = f * (1 + kProbitFactor * outputs.covariance.to(torch::kFloat64).diagonal(0, 1, 2)).rsqrt();
  return {at::log_sigmoid(f), at::log_sigmoid(-f)};
}

}  // namespace

void visit_outputs(Layer& network, const Tensor& x, const std::vector<const Block*>& blocks,
                   int64_t batch, const OnOutputs& on_outputs) {
  torch::NoGradGuard no_grad;
  expect_evaluation_mode(network);
  const BlockIndex index(blocks);
  for (int64_t begin = 0; begin < x.size(0); begin += batch) {
    const auto count = std::min(batch, x.size(0) - begin);
    Tape tape;
    const auto f = network.forward(x.narrow(0, begin, count), &tape);
    expect_finite(f, "network outputs");
    const auto basis =
        torch::eye(f.size(1), f.options()).unsqueeze(1).expand({-1, count, -1}).contiguous();
    std::vector<Curvature::Visit> visits(blocks.size());
    const auto keep = [&](size_t m, const Tensor& input, const Tensor& g) {
      visits[m] = {blocks[m], input, g};
    };
    network.backward(basis, tape, sink_of(index, keep), false);
    on_outputs(begin, f, visits);
  }
}

OutputDistribution output_distribution(Layer& network, const Tensor& x, const Curvature& curvature,
                                       const Priors& priors, int64_t batch) {
  torch::NoGradGuard no_grad;
  const auto precisions = precisions_of(priors, curvature);
  std::vector<Tensor> means, covariances;
  visit_outputs(network, x, curvature.blocks(), batch,
                [&](int64_t, const Tensor& f, const std::vector<Curvature::Visit>& visits) {
                  means.push_back(f);
                  covariances.push_back(curvature.output_covariance(visits, precisions));
                });
  return {torch::cat(means), torch::cat(covariances)};
}

Tensor output_samples(const OutputDistribution& outputs, const Stream& stream, int64_t draws,
                      int64_t first) {
  const auto n = outputs.mean.size(0), classes = outputs.mean.size(1);
  auto z = torch::empty({draws, n, classes}, torch::kFloat64);
  auto out = z.accessor<double, 3>();
  for (int64_t i = 0; i < n; ++i) {
    Draws numbers(stream.split(static_cast<uint64_t>(first + i)));
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

void expect_link(const Likelihood& likelihood, Link link) {
  if (likelihood.is_regression() && (link == Link::kMc || link == Link::kBridge))
    throw UsageError(
        "predictive: regression is Gaussian in closed form, with variance V + sigma^2; use map or "
        "probit");
  if (link == Link::kBridge && likelihood.name() != "classification")
    throw UsageError(
        "predictive: the Laplace bridge is defined for classification only; use probit");
}

Tensor predict(const OutputDistribution& outputs, const Likelihood& likelihood, Link link,
               const Stream& stream, int64_t draws) {
  if (link == Link::kMap) return likelihood.predict(outputs.mean);
  if (likelihood.is_regression())
    throw UsageError(
        "predictive: regression is Gaussian with mean f and variance V + sigma^2; use map");
  expect_link(likelihood, link);
  if (link == Link::kMc) {
    const auto f = output_samples(outputs, stream, draws);
    const auto flat = likelihood.predict(f.flatten(0, 1));
    return flat.view(f.sizes()).mean(0);
  }
  if (link == Link::kProbit) {
    const auto variance = outputs.covariance.diagonal(0, 1, 2);
    return likelihood.predict(outputs.mean * (1 + kProbitFactor * variance).rsqrt());
  }
  return bridge(outputs).softmax(1);
}

Tensor predictive_log_density(const OutputDistribution& outputs, const Likelihood& likelihood,
                              Link link, const Tensor& y, const Stream& stream, int64_t draws,
                              int64_t first) {
  expect_link(likelihood, link);
  if (likelihood.is_regression()) {
    const auto error = y.to(torch::kFloat64) - outputs.mean.to(torch::kFloat64);
    auto variance = torch::full_like(error, 1 / likelihood.curvature_scale());
    if (link == Link::kProbit)
      variance = variance + outputs.covariance.to(torch::kFloat64).diagonal(0, 1, 2);
    return -0.5 * (error.square() / variance + (2 * std::numbers::pi * variance).log()).sum(1);
  }
  if (likelihood.name() == "classification")
    return class_log_probabilities(outputs, link, stream, draws, first)
        .gather(1, y.unsqueeze(1))
        .squeeze(1);
  const auto [one, zero] = binary_log_probabilities(outputs, link, stream, draws, first);
  const auto target = y.to(torch::kFloat64);
  return (target * one + (1 - target) * zero).sum(1);
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
