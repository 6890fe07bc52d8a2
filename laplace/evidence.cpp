#include "laplace/evidence.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace evariste {
namespace {

Tensor value64(const Block& block) { return block.value().detach().to(torch::kFloat64); }

}  // namespace

Tensor seen_by_prior(const Block& block) { return value64(block).cpu(); }

Tensor precision_of(const Prior& prior, const Tensor& theta, const Block& block) {
  const auto precision = prior.precision(theta).detach();
  return precision.dim() == 0 ? precision : precision.to(block.value().device());
}

double Evidence::effective_dimension() const {
  double sum = 0;
  for (const auto& block : blocks) sum += block.effective_dimension;
  return sum;
}

bool is_first_use(const Priors& priors, size_t m) {
  return std::none_of(priors.begin(), priors.begin() + static_cast<std::ptrdiff_t>(m),
                      [&](const Prior& earlier) { return earlier.is_same(priors[m]); });
}

Precisions precisions_of(const Priors& priors, const Curvature& curvature) {
  if (priors.size() != curvature.blocks().size())
    throw UsageError(fmt::format("expected one prior for each of {} blocks, got {}",
                                 curvature.blocks().size(), priors.size()));
  torch::NoGradGuard no_grad;
  Precisions out;
  for (size_t m = 0; m < priors.size(); ++m) {
    const auto& block = *curvature.blocks()[m];
    out.push_back(precision_of(priors[m], seen_by_prior(block), block));
    if (out.back().numel() != 1 && !curvature.takes_entry_precisions())
      throw UsageError(fmt::format(
          "prior {} has one precision per entry, which a Kronecker-factored curvature cannot be "
          "combined with: use structure diag, block or full, or a prior with one precision per "
          "block",
          priors[m].name()));
  }
  return out;
}

double scatter_of(const Priors& priors, size_t m, const Block& block) {
  torch::NoGradGuard no_grad;
  const auto theta = seen_by_prior(block);
  const auto precision = precision_of(priors[m], theta, block);
  const auto parameters = static_cast<double>(theta.numel());
  const auto log_precision =
      precision.log().sum().item<double>() * (precision.numel() == 1 ? parameters : 1.0);
  auto log_density = priors[m].log_density(theta).item<double>();
  if (is_first_use(priors, m)) log_density += priors[m].log_hyper_density().item<double>();
  return -2 * log_density - parameters * std::log(2 * std::numbers::pi) + log_precision;
}

Evidence evaluate_evidence(const Fit& fit, const Likelihood& likelihood, const Priors& priors,
                           double temperature) {
  auto& curvature = *fit.curvature;
  curvature.set_scale(likelihood.curvature_scale() / temperature);
  const auto precisions = precisions_of(priors, curvature);
  const auto log_dets = curvature.log_det(precisions);
  const auto ratios = curvature.trace_ratios();
  torch::NoGradGuard no_grad;
  Evidence out;
  out.n = curvature.samples();
  out.log_likelihood = fit.log_likelihood;
  for (size_t m = 0; m < priors.size(); ++m) {
    const auto& block = *curvature.blocks()[m];
    const auto theta = value64(block);
    BlockEvidence e;
    e.name = block.name;
    e.parameters = theta.numel();
    e.prior_precision = precisions[m].mean().item<double>();
    e.log_det_ratio = log_dets[m].ratio;
    e.squared_norm = theta.square().sum().item<double>();
    const bool is_one = precisions[m].numel() == 1;
    e.scatter = scatter_of(priors, m, block);
    e.effective_dimension = log_dets[m].effective;
    const auto pull = is_one ? e.prior_precision * e.squared_norm
                             : (precisions[m] * theta.square()).sum().item<double>();
    e.evidence_gradient = 0.5 * (e.effective_dimension - pull);
    e.trace_ratio = ratios[m];
    out.scatter += e.scatter;
    out.blocks.push_back(std::move(e));
  }
  for (const auto& block : log_dets) out.log_det_ratio += block.ratio;
  if (std::isnan(out.log_det_ratio)) out.log_det_ratio = curvature.log_det_ratio(precisions);
  out.log_evidence = (fit.log_likelihood - fit.normaliser) / temperature + fit.normaliser -
                     0.5 * (out.log_det_ratio + out.scatter);
  if (!std::isfinite(out.log_evidence)) {
    for (const auto& e : out.blocks)
      if (!std::isfinite(e.scatter) || !std::isfinite(e.effective_dimension))
        throw NumericalError(fmt::format(
            "{}: the evidence is not finite (scatter {}, effective dimension {}, precision {})",
            e.name, e.scatter, e.effective_dimension, e.prior_precision));
    throw NumericalError(
        fmt::format("the evidence is not finite: log-likelihood {}, log-det ratio {}",
                    out.log_likelihood, out.log_det_ratio));
  }
  return out;
}

double newton_decrement(const Gradient& gradient, const Likelihood& likelihood, const Fit& fit,
                        const Priors& priors, double temperature) {
  auto& curvature = *fit.curvature;
  curvature.set_scale(likelihood.curvature_scale() / temperature);
  const auto precisions = precisions_of(priors, curvature);
  torch::NoGradGuard no_grad;
  std::vector<Tensor> slope;  // of the whole objective
  for (size_t m = 0; m < priors.size(); ++m)
    slope.push_back(
        (precisions[m] * value64(*curvature.blocks()[m])).to(gradient.blocks[m].scalar_type()) -
        gradient.blocks[m] / temperature);
  const double sum = curvature.inverse_norm(slope, precisions);
  return 0.5 * sum / static_cast<double>(curvature.samples());
}

Checks check_evidence(Layer& network, const Likelihood& likelihood, const Samples& data,
                      const Fit& fit, const Priors& priors, double temperature,
                      const Stream& stream, int64_t batch, int64_t draws) {
  const auto gradient =
      log_likelihood_gradient(network, likelihood, data, fit.curvature->blocks(), batch);
  return check_evidence(network, likelihood, data, gradient, data, fit, priors, temperature, stream,
                        batch, draws);
}

Checks check_evidence(Layer& network, const Likelihood& likelihood, const Samples& data,
                      const Gradient& gradient, const Samples& part, const Fit& fit,
                      const Priors& priors, double temperature, const Stream& stream, int64_t batch,
                      int64_t draws, const Believable& thresholds) {
  Checks checks;
  checks.newton_decrement = newton_decrement(gradient, likelihood, fit, priors, temperature);
  torch::NoGradGuard no_grad;
  const auto& curvature = *fit.curvature;
  const auto precisions = precisions_of(priors, curvature);
  const auto n = static_cast<double>(curvature.samples());
  double sampled = 0, present = 0, effective = 0;
  for (const auto& block : curvature.log_det(precisions)) effective += block.effective;
  std::vector<std::map<const Block*, Tensor>> directions(static_cast<size_t>(draws));
  for (size_t s = 0; s < directions.size(); ++s) {
    const auto sample = curvature.sample(precisions, stream.split(s));
    for (size_t m = 0; m < sample.size(); ++m)
      for (const auto& [block, value] : curvature.blocks()[m]->parts(sample[m]))
        directions[s][block] = value.unsqueeze(0);
  }
  for (int64_t begin = 0; begin < part.count(); begin += batch) {
    const auto count = std::min(batch, part.count() - begin);
    Tape tape;
    const auto f = network.forward(part.inputs(begin, count), &tape);
    const auto y = part.y.narrow(0, begin, count);
    present += likelihood.log_density(f, y).sum(torch::kFloat64).item<double>();
    for (const auto& draw : directions) {
      const auto df = network.jvp(Tensor(), tape, along([&](const Block& block) {
                                    const auto found = draw.find(&block);
                                    return found == draw.end() ? Tensor() : found->second;
                                  }));
      sampled += likelihood.log_density(df.defined() ? f + df[0] : f, y)
                     .sum(torch::kFloat64)
                     .item<double>();
    }
  }
  const auto size = static_cast<double>(part.everywhere());
  sampled = part.sum(sampled), present = part.sum(present);
  sampled /= static_cast<double>(draws) * size;
  present /= size;
  checks.linearised_gap = sampled - (present - 0.5 * temperature * effective / n);
  const auto outputs = network.forward(data.inputs(0, 1)).size(1);
  const auto labels = data.gather(data.y);
  // A dead network that has learnt the frequencies reaches the baseline up to rounding.
  constexpr double kRounding = 1e-6;
  checks.alive = effective > 0 && present > likelihood.baseline(labels, outputs) + kRounding;
  checks.believable = checks.alive && checks.newton_decrement < thresholds.decrement &&
                      checks.linearised_gap > thresholds.gap;
  return checks;
}

std::vector<EntryTest> entry_tests(Layer& network, const Likelihood& likelihood,
                                   const Samples& data, const Fit& fit, int64_t batch) {
  const auto* kron = dynamic_cast<const KronCurvature*>(fit.curvature.get());
  if (!kron) throw UsageError("the entry test needs a Kronecker-factored curvature");
  const auto gradient = log_likelihood_gradient(network, likelihood, data, kron->blocks(), batch);
  torch::NoGradGuard no_grad;
  std::vector<EntryTest> out;
  for (size_t m = 0; m < kron->blocks().size(); ++m) {
    const auto& f = kron->factors()[m];
    const auto lambda =
        likelihood.curvature_scale() * f.eigenvalues();  // no temperature: g has none
    const auto g = gradient.blocks[m].to(torch::kFloat64);
    const auto rotated = f.b.basis.to(torch::kFloat64)
                             .transpose(1, 2)
                             .matmul(g)
                             .matmul(f.a.basis.to(torch::kFloat64));
    EntryTest test;
    test.name = kron->blocks()[m]->name;
    test.gradient_squared = g.square().sum().item<double>();
    test.fisher_trace = lambda.sum().item<double>();
    const auto squares = rotated.square();
    const auto outside = std::max(0.0, test.gradient_squared - squares.sum().item<double>());
    const auto gain = [&](double log_delta) {
      const auto delta = std::exp(log_delta);
      return 0.5 * ((squares / (lambda + delta) - (lambda / delta).log1p()).sum().item<double>() +
                    outside / delta);
    };
    double best = 20;
    for (double rho = -10; rho <= 20; rho += 1.0)
      if (gain(rho) > gain(best)) best = rho;
    double low = best - 1, high = best + 1;  // golden section within the bracket
    constexpr double kGolden = 0.6180339887498949;
    for (int i = 0; i < 30; ++i) {
      const double a = high - kGolden * (high - low), b = low + kGolden * (high - low);
      (gain(a) > gain(b) ? high : low) = gain(a) > gain(b) ? b : a;
    }
    const double rho = std::clamp(0.5 * (low + high), -10.0, 20.0);
    test.gain = std::max(0.0, gain(rho));
    test.best_precision = std::exp(rho);
    out.push_back(std::move(test));
  }
  return out;
}

}  // namespace evariste
