#include "laplace/bounds.h"

#include <chrono>
#include <cmath>

#include "core/error.h"
#include "laplace/function_space.h"

namespace evariste {
namespace {

using Clock = std::chrono::steady_clock;

std::vector<int64_t> shuffled(std::vector<int64_t> items, const Stream& stream) {
  Draws draws(stream);
  for (size_t i = items.size(); i-- > 1;) std::swap(items[i], items[draws.below(i + 1)]);
  return items;
}

std::vector<int64_t> count_to(int64_t n) {
  std::vector<int64_t> all(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) all[static_cast<size_t>(i)] = i;
  return all;
}

/// All samples in the order in which parts are filled.
std::vector<int64_t> filling_order(const Samples& data, const BoundOptions& options) {
  const auto order = shuffled(count_to(data.count()), options.stream.split("order"));
  if (!options.by_class) return order;
  if (data.y.dim() != 1 || data.y.is_floating_point())
    throw UsageError("bounds: parts by class need labels that are classes");
  const auto y = data.y.cpu().contiguous();
  const auto* label = y.data_ptr<int64_t>();
  const auto classes =
      shuffled(count_to(y.max().item<int64_t>() + 1), options.stream.split("class"));
  std::vector<int64_t> out;
  for (const auto c : classes)
    for (const auto i : order)
      if (label[i] == c) out.push_back(i);
  return out;
}

/// log|I + S| for symmetric S >= 0; overwrites S.
double log_det_plus_one(Tensor s) {
  s.diagonal(0, -2, -1).add_(1);
  const auto [root, info] = at::linalg_cholesky_ex(s);
  if (info.item<int64_t>() != 0)
    throw NumericalError(fmt::format(
        "bounds: the kernel of {} outputs is not positive by more than rounding; use float64",
        s.size(0)));
  return 2 * root.diagonal(0, -2, -1).log().sum().item<double>();
}

/// R_M of the NTK bounds for samples x with outputs f [M, C].
double ntk_log_det(Layer& network, const Likelihood& likelihood, const Tensor& x, const Tensor& f,
                   const std::vector<const Block*>& blocks, const Precisions& precisions,
                   const BoundOptions& options, const Stream& stream) {
  const auto n = f.size(0), outputs = f.size(1);
  // [M, C, M, C]
  const auto kernel = prior_covariance(network, x, x, blocks, precisions, std::min<int64_t>(16, n))
                          .to(torch::kFloat64);
  const double scale = likelihood.curvature_scale();
  if (options.bound == Bound::kNtk) {
    const auto root =
        likelihood.hessian_root(f).to(torch::kFloat64).permute({1, 2, 0}) * std::sqrt(scale);
    const auto columns = root.size(2);  // S [M, C, R]
    const auto left = root.transpose(1, 2).matmul(kernel.flatten(2)).view({n, columns, n, outputs});
    const auto both = left.permute({2, 0, 1, 3}).reshape({n, n * columns, outputs}).matmul(root);
    return log_det_plus_one(both.permute({1, 0, 2}).reshape({n * columns, n * columns}));
  }
  const auto slopes = likelihood.hessian(f).to(torch::kFloat64).diagonal(0, 1, 2).sqrt();  // [M, C]
  const auto of_output = [&](int64_t c) {
    const auto s = slopes.select(1, c);
    return log_det_plus_one(kernel.select(3, c).select(1, c) * s.unsqueeze(0) * s.unsqueeze(1));
  };
  if (options.bound == Bound::kNtkSingle)
    return static_cast<double>(outputs) *
           of_output(static_cast<int64_t>(Draws(stream).below(static_cast<uint64_t>(outputs))));
  double sum = 0;
  for (int64_t c = 0; c < outputs; ++c) sum += of_output(c);
  return sum;
}

}  // namespace

EvidenceBound bound_evidence(Layer& network, const Likelihood& likelihood, const Samples& data,
                             const Priors& priors, const BoundOptions& options) {
  expect_evaluation_mode(network);
  if (data.processes) throw UsageError("bounds: expected data that are not shared by processes");
  if (data.count() == 0 || options.samples < 1 || options.samples > data.count())
    throw UsageError(fmt::format("bounds: expected parts of 1 ... {} samples, found {}",
                                 data.count(), options.samples));
  const auto start = Clock::now();
  torch::NoGradGuard no_grad;
  const auto order = filling_order(data, options);
  const auto all = data.count() / options.samples;
  const auto parts = options.parts > 0 ? std::min(options.parts, all) : all;
  std::vector<std::shared_ptr<Block>> owned;
  const auto blocks = curvature_blocks(network, options.curvature, owned);
  if (priors.size() != blocks.size())
    throw UsageError(fmt::format("bounds: expected a prior for each of {} blocks, found {}",
                                 blocks.size(), priors.size()));
  Precisions precisions;
  EvidenceBound out;
  for (size_t m = 0; m < blocks.size(); ++m) {
    const auto theta = seen_by_prior(*blocks[m]);
    precisions.push_back(precision_of(priors[m], theta, *blocks[m]));
  }
  std::vector<double> values, counts;
  double seen = 0, log_likelihood = 0, log_det = 0;
  for (int64_t p = 0; p < parts; ++p) {
    const auto first = p * options.samples;
    const auto end = p + 1 == all ? data.count() : first + options.samples;
    const auto rows =
        torch::tensor(at::ArrayRef<int64_t>(order).slice(first, end - first), torch::kInt64)
            .to(data.x.device());
    auto part = data.select(rows);
    part.total = 0;
    const auto count = static_cast<double>(part.count());
    double part_likelihood = 0, part_log_det = 0;
    if (options.bound == Bound::kParametric) {
      auto curvature = options.curvature;
      curvature.bases = false;
      const auto fit = fit_curvature(network, likelihood, part, curvature);
      const auto evidence = evaluate_evidence(fit, likelihood, priors);
      part_likelihood = evidence.log_likelihood;
      part_log_det = evidence.log_det_ratio;
    } else {
      const auto x = part.inputs(0, part.count());
      const auto f = network.forward(x);
      part_likelihood = likelihood.log_density(f, part.y).sum(torch::kFloat64).item<double>();
      part_log_det = ntk_log_det(network, likelihood, x, f, blocks, precisions, options,
                                 options.stream.split("output").split(static_cast<uint64_t>(p)));
    }
    if (!std::isfinite(part_log_det) || !std::isfinite(part_likelihood))
      throw NumericalError(fmt::format("bounds: part {} of {}: log-likelihood {}, log det {}", p,
                                       parts, part_likelihood, part_log_det));
    seen += count;
    log_likelihood += part_likelihood;
    log_det += part_log_det;
    values.push_back((part_likelihood - 0.5 * part_log_det) / count);
    counts.push_back(count);
  }
  // scatter as evaluate_evidence has it: for Gaussians theta^T P0 theta.
  for (size_t m = 0; m < blocks.size(); ++m) out.scatter += scatter_of(priors, m, *blocks[m]);
  const auto total = static_cast<double>(data.total > 0 ? data.total : data.count());
  out.parts = parts;
  out.log_likelihood = total / seen * log_likelihood;
  out.log_det_ratio = total / seen * log_det;
  out.log_evidence = out.log_likelihood - 0.5 * (out.log_det_ratio + out.scatter);
  double squares = 0;
  const double mean = (log_likelihood - 0.5 * log_det) / seen;
  for (const double v : values) squares += (v - mean) * (v - mean);
  out.spread = parts > 1 ? total * std::sqrt(squares / static_cast<double>(parts - 1))
                         : std::numeric_limits<double>::quiet_NaN();
  out.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return out;
}

}  // namespace evariste
