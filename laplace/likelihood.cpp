#include "laplace/likelihood.h"

#include <cmath>
#include <numbers>

#include "core/error.h"
#include "core/nearest.h"
#include "laplace/cuda/bind.h"

namespace evariste {
namespace {

/// Uniform numbers [S, n]; entry (s, i) is draw s of the stream of sample first + i.
Tensor uniform_draws(int64_t draws, int64_t n, const Stream& stream, int64_t first) {
  auto u = torch::empty({draws, n}, torch::kFloat64);
  auto out = u.accessor<double, 2>();
  for (int64_t i = 0; i < n; ++i) {
    Draws numbers(stream.split(static_cast<uint64_t>(first + i)));
    for (int64_t s = 0; s < draws; ++s) out[s][i] = numbers.uniform();
  }
  return u;
}

/// Numbers [S, n, C] of draw(Draws&), one stream per sample.
template <class Draw>
Tensor sample_draws(int64_t draws, const Tensor& f, const Stream& stream, int64_t first,
                    const Draw& draw) {
  auto u = torch::empty({draws, f.size(0), f.size(1)}, torch::kFloat64);
  auto out = u.accessor<double, 3>();
  for (int64_t i = 0; i < f.size(0); ++i) {
    Draws numbers(stream.split(static_cast<uint64_t>(first + i)));
    for (int64_t s = 0; s < draws; ++s)
      for (int64_t c = 0; c < f.size(1); ++c) out[s][i][c] = draw(numbers);
  }
  return u.to(f.options());
}

/// sum_r e_r s_r / sqrt(S) with random signs e: S columns [S, n, C] whose squares have the right
/// mean.
Tensor sketched(const Tensor& root, int64_t draws, const Stream& stream, int64_t first) {
  const auto columns = root.size(0), n = root.size(1);
  auto signs = torch::empty({draws, n, columns}, torch::kFloat64);
  auto out = signs.accessor<double, 3>();
  for (int64_t i = 0; i < n; ++i) {
    Draws numbers(stream.split(static_cast<uint64_t>(first + i)));
    for (int64_t s = 0; s < draws; ++s)
      for (int64_t r = 0; r < columns; ++r) out[s][i][r] = (numbers.bits() >> 63) != 0 ? 1.0 : -1.0;
  }
  const auto e = signs.to(root.options()).permute({1, 0, 2});  // [n, S, R]
  return (e.matmul(root.transpose(0, 1)) / std::sqrt(static_cast<double>(draws))).transpose(0, 1);
}

void expect_targets(const Tensor& y, int64_t outputs, std::string_view likelihood) {
  if (!y.is_floating_point() || y.dim() != 2 || y.size(1) != outputs)
    throw UsageError(fmt::format("labels for {}: expected floating point [N, {}], got {} {}",
                                 likelihood, outputs, toString(y.scalar_type()),
                                 shape_text(y.sizes())));
  if (!at::isfinite(y).all().item<bool>())
    throw UsageError(
        fmt::format("labels for {}: expected finite numbers, found NaN or infinity", likelihood));
}

}  // namespace

Tensor Likelihood::normaliser(const Tensor& f) const {
  return torch::zeros({f.size(0)}, f.options());
}

Tensor Likelihood::columns(Fisher fisher, const Tensor& f, const Tensor& y, int64_t draws,
                           const Stream& stream, int64_t first) const {
  switch (fisher) {
    case Fisher::kExact:
      return hessian_root(f);
    case Fisher::kMonteCarlo:
      return sampled_scores(f, draws, stream, first);
    case Fisher::kSketch:
      return sketched(hessian_root(f), draws, stream, first);
    case Fisher::kEmpirical:
      break;
  }
  // In the units of the root: Gaussian curvature is stored with Lambda = I, so sigma is taken out.
  return (score(f, y) / std::sqrt(curvature_scale())).unsqueeze(0);
}

// --- softmax ---------------------------------------------------------------------------------

Tensor Softmax::log_density(const Tensor& f, const Tensor& y) const {
  return f.log_softmax(1).gather(1, y.unsqueeze(1)).squeeze(1);
}

Tensor Softmax::score(const Tensor& f, const Tensor& y) const {
  if (cuda::takes(f)) return cuda::softmax_score(f, y);
  return (-f.softmax(1))
      .scatter_add(1, y.unsqueeze(1), torch::ones_like(y.unsqueeze(1), f.options()));
}

Tensor Softmax::hessian_span(int64_t outputs, const torch::TensorOptions& options) const {
  if (outputs == 1) return Likelihood::hessian_span(outputs, options);
  auto rows = torch::zeros({outputs - 1, outputs}, options);  // Helmert's: r entries, less r times
  for (int64_t r = 1; r < outputs; ++r) {
    const auto n = static_cast<double>(r);
    rows[r - 1].narrow(0, 0, r).fill_(1 / std::sqrt(n * (n + 1)));
    rows[r - 1][r].fill_(-n / std::sqrt(n * (n + 1)));
  }
  return rows;
}

Tensor Softmax::hessian(const Tensor& f) const {
  const auto p = f.softmax(1);
  return torch::diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1);
}

Tensor Softmax::hessian_root(const Tensor& f) const {
  if (cuda::takes(f)) return cuda::softmax_root(f);
  const auto p = f.softmax(1);
  const auto classes = f.size(1);
  if (classes == 1) return torch::zeros({1, f.size(0), 1}, f.options());
  // q_j = sum_{i>j} p_i as a reverse cumulative sum: 1 - cumsum would cancel.
  const auto from = p.flip(1).cumsum(1).flip(1);       // sum_{i>=j} p_i = q_{j-1}
  const auto after = from.narrow(1, 1, classes - 1);   // q_j, j < C-1
  const auto before = from.narrow(1, 0, classes - 1);  // q_{j-1}
  const auto head = p.narrow(1, 0, classes - 1);       // p_j
  const auto product = before * after;
  // Below this the column is smaller than the square root of the smallest number: zero.
  const auto safe = product > (f.scalar_type() == torch::kFloat64 ? 1e-290 : 1e-32);
  const auto diagonal = torch::where(before > 0, (head * after / before.clamp_min(1e-300)).sqrt(),
                                     torch::zeros_like(head));
  const auto factor =
      torch::where(safe, (head / torch::where(safe, product, torch::ones_like(product))).sqrt(),
                   torch::zeros_like(head));              // [n, C-1]
  auto root = -factor.t().unsqueeze(2) * p.unsqueeze(0);  // [C-1, n, C]
  const auto j = torch::arange(classes - 1, torch::kLong).to(f.device());
  const auto i = torch::arange(classes, torch::kLong).to(f.device());
  root =
      torch::where((i.unsqueeze(0) > j.unsqueeze(1)).unsqueeze(1), root, torch::zeros_like(root));
  return root + torch::where((i.unsqueeze(0) == j.unsqueeze(1)).unsqueeze(1),
                             diagonal.t().unsqueeze(2), torch::zeros_like(root));
}

Tensor Softmax::ranked_root(const Tensor& f) const {
  const auto [sorted, classes] = f.sort(1, /*descending=*/true);
  const auto root = hessian_root(sorted);  // rows in the order of `classes`
  return torch::empty_like(root).scatter_(2, classes.unsqueeze(0).expand_as(root), root);
}

Tensor Softmax::sampled_scores(const Tensor& f, int64_t draws, const Stream& stream,
                               int64_t first) const {
  if (cuda::takes(f)) return cuda::softmax_sampled_scores(f, draws, stream.key(), first);
  const auto p = f.softmax(1);
  const auto u = uniform_draws(draws, f.size(0), stream, first).to(f.device());  // [S, n]
  const auto cumulative = p.to(torch::kFloat64).cumsum(1);                       // [n, C]
  const auto labels = (u.unsqueeze(2) > cumulative.unsqueeze(0)).sum(2).clamp_max(f.size(1) - 1);
  const auto hot = torch::one_hot(labels, f.size(1)).to(f.scalar_type());  // [S, n, C]
  return (hot - p.unsqueeze(0)) / std::sqrt(static_cast<double>(draws));
}

double Softmax::baseline(const Tensor& y, int64_t outputs) const {
  const auto frequency = torch::bincount(y.cpu(), {}, outputs).to(torch::kFloat64) / y.numel();
  return torch::xlogy(frequency, frequency).sum().item<double>();
}

void Softmax::check_labels(const Tensor& y, int64_t outputs) const {
  if (y.scalar_type() != torch::kInt64 || y.dim() != 1)
    throw UsageError(fmt::format("labels for classification: expected int64 [N], got {} {}",
                                 toString(y.scalar_type()), shape_text(y.sizes())));
  const auto low = y.min().item<int64_t>(), high = y.max().item<int64_t>();
  if (low < 0 || high >= outputs)
    throw UsageError(fmt::format(
        "labels for classification: expected 0..{} (the network has {} outputs), found {}",
        outputs - 1, outputs, low < 0 ? low : high));
}

// --- Gaussian --------------------------------------------------------------------------------

Gaussian::Gaussian(double noise) : noise_(1.0) { set_noise(noise); }

void Gaussian::set_noise(double noise) {
  if (!(noise > 0) || !std::isfinite(noise))
    throw UsageError(fmt::format("noise: expected a positive standard deviation, got {}", noise));
  noise_ = noise;
}

Tensor Gaussian::log_density(const Tensor& f, const Tensor& y) const {
  return -0.5 * (y - f).square().sum(1) / (noise_ * noise_) + normaliser(f);
}

Tensor Gaussian::normaliser(const Tensor& f) const {
  const double one = -std::log(noise_) - 0.5 * std::log(2 * std::numbers::pi);
  return torch::full({f.size(0)}, one * static_cast<double>(f.size(1)), f.options());
}

Tensor Gaussian::score(const Tensor& f, const Tensor& y) const {
  return (y - f) / (noise_ * noise_);
}

Tensor Gaussian::hessian(const Tensor& f) const {
  return torch::eye(f.size(1), f.options()).expand({f.size(0), -1, -1}) / (noise_ * noise_);
}

Tensor Gaussian::hessian_root(const Tensor& f) const {
  return torch::eye(f.size(1), f.options()).unsqueeze(1).expand({-1, f.size(0), -1}).contiguous();
}

Tensor Gaussian::sampled_scores(const Tensor& f, int64_t draws, const Stream& stream,
                                int64_t first) const {
  return sample_draws(draws, f, stream, first, [](Draws& d) { return d.normal(); }) /
         std::sqrt(static_cast<double>(draws));
}

double Gaussian::baseline(const Tensor& y, int64_t outputs) const {
  const auto mean = y.mean(0, true).expand_as(y);
  (void)outputs;
  return log_density(mean, y).mean().item<double>();
}

void Gaussian::check_labels(const Tensor& y, int64_t outputs) const {
  expect_targets(y, outputs, "regression");
}

// --- Bernoulli -------------------------------------------------------------------------------

Tensor Bernoulli::log_density(const Tensor& f, const Tensor& y) const {
  return (y * at::log_sigmoid(f) + (1 - y) * at::log_sigmoid(-f)).sum(1);
}

Tensor Bernoulli::score(const Tensor& f, const Tensor& y) const { return y - f.sigmoid(); }

Tensor Bernoulli::hessian(const Tensor& f) const {
  return torch::diag_embed(f.sigmoid() * (-f).sigmoid());
}

Tensor Bernoulli::hessian_root(const Tensor& f) const {
  if (cuda::takes(f)) return cuda::bernoulli_root(f);
  return torch::diag_embed((f.sigmoid() * (-f).sigmoid()).sqrt()).permute({1, 0, 2}).contiguous();
}

Tensor Bernoulli::sampled_scores(const Tensor& f, int64_t draws, const Stream& stream,
                                 int64_t first) const {
  const auto u = sample_draws(draws, f, stream, first, [](Draws& d) { return d.uniform(); });
  const auto s = f.sigmoid().unsqueeze(0);
  return ((u < s).to(f.scalar_type()) - s) / std::sqrt(static_cast<double>(draws));
}

double Bernoulli::baseline(const Tensor& y, int64_t outputs) const {
  (void)outputs;
  const auto p = y.to(torch::kFloat64).mean(0);
  return (torch::xlogy(p, p) + torch::xlogy(1 - p, 1 - p)).sum().item<double>();
}

void Bernoulli::check_labels(const Tensor& y, int64_t outputs) const {
  expect_targets(y, outputs, "bernoulli");
  if (y.min().item<double>() < 0 || y.max().item<double>() > 1)
    throw UsageError("labels for bernoulli: expected numbers in [0, 1]");
}

std::unique_ptr<Likelihood> make_likelihood(std::string_view name, double noise) {
  if (name == "classification") return std::make_unique<Softmax>();
  if (name == "regression") return std::make_unique<Gaussian>(noise);
  if (name == "bernoulli") return std::make_unique<Bernoulli>();
  throw UsageError(unknown_name("likelihood", name, {"classification", "regression", "bernoulli"}));
}

}  // namespace evariste
