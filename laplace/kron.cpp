#include "laplace/kron.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/widest.h"
#include "laplace/cuda/bind.h"
#include "laplace/statistics.h"

namespace evariste {
namespace {

constexpr double kNegligible = 1e-17;  // lambda/delta below it changes no float64 sum

double scalar_precision(const Tensor& precision, const Block& block) {
  if (precision.numel() != 1)
    throw UsageError(fmt::format(
        "{}: a Kronecker-factored curvature cannot be combined with one prior precision per entry; "
        "use structure diag, block or full, or a prior with one precision per block",
        block.name));
  return precision.item<double>();
}

}  // namespace

Tensor KronFactor::eigenvalues() const {
  if (spectrum.defined()) return spectrum;
  return correction * b.values.unsqueeze(2) * a.values.unsqueeze(1);
}

namespace {

/// Calls row(r, lambda, products): `products` says whether lambda[j] has still to be multiplied by
/// it (Kronecker: ascending a.values) or stands for itself (EKFAC: factor 1, no order).
template <class Row>
void for_each_row(const KronFactor& factor, const Row& row) {
  const auto alpha = factor.a.values.cpu().contiguous(), beta = factor.b.values.cpu().contiguous();
  const auto spectrum = factor.spectrum.defined() ? factor.spectrum.cpu().contiguous() : Tensor();
  const auto groups = alpha.size(0), inputs = alpha.size(1), outputs = beta.size(1);
  constexpr int64_t kEntriesEach = 400000;  // of a thread: half a millisecond, ten times its start
  const auto* pa = alpha.data_ptr<double>();
  const auto* pb = beta.data_ptr<double>();
  const auto* ps = spectrum.defined() ? spectrum.data_ptr<double>() : nullptr;
  at::parallel_for(0, groups * outputs,
                   std::max<int64_t>(1, kEntriesEach / std::max<int64_t>(inputs, 1)),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t r = begin; r < end; ++r)
                       if (ps)
                         row(r, ps + r * inputs, 1.0);
                       else
                         row(r, pa + (r / outputs) * inputs, factor.correction * pb[r]);
                   });
}

}  // namespace

namespace {

/// Sums over r_j = c lambda_j. sum log(1 + r) = log prod (1 + r), with `together` factors before a
/// logarithm is taken; small r by their series, as 1 + r would lose their digits.
EVARISTE_WIDEST SpectralSums row_sums(const double* lambda, int64_t count, double c,
                                      int64_t together) {
  constexpr double kSmall = 0x1p-10;  // the series' next term is below rounding
  double effective = 0, slope = 0, series = 0, logs = 0;
  for (int64_t begin = 0; begin < count; begin += together) {
    const auto end = std::min(count, begin + together);
    double product = 1;
#pragma omp simd reduction(+ : effective, slope, series) reduction(* : product)
    for (int64_t j = begin; j < end; ++j) {
      const double r = c * lambda[j];
      const double rest = 1 / (1 + r), share = r * rest;
      effective += share;
      slope += share * rest;
      const bool is_small = r < kSmall;
      product *= is_small ? 1.0 : 1 + r;
      series += is_small ? r * (1 - r * (1.0 / 2 - r * (1.0 / 3 - r * (1.0 / 4 - r / 5)))) : 0.0;
    }
    logs += std::log(product);
  }
  return {logs + series, effective, slope};
}

}  // namespace

SpectralSums spectral_sums(const KronFactor& factor, double scale, double precision) {
  if (cuda::takes(factor.a.values)) {
    const auto sums =
        cuda::spectral_sums(factor.a.values, factor.b.values, factor.spectrum,
                            scale * (factor.spectrum.defined() ? 1 : factor.correction), precision);
    const auto* sum = sums.const_data_ptr<double>();
    return {sum[0], sum[1], sum[2]};
  }
  const auto inputs = factor.a.values.size(1);
  const bool ascending = !factor.spectrum.defined();
  std::vector<SpectralSums> sums(factor.a.values.size(0) * factor.b.values.size(1));
  for_each_row(factor, [&](int64_t r, const double* lambda, double times) {
    const double c = scale * times / precision;
    const auto* end = lambda + inputs;
    const auto* first =  // below it nothing counts
        ascending ? std::lower_bound(lambda, end, kNegligible,
                                     [c](double l, double least) { return c * l < least; })
                  : lambda;
    if (first == end) return;
    const double largest = c * (ascending ? end[-1] : *std::max_element(lambda, end));
    const auto together = static_cast<int64_t>(1000 / std::max(1.0, std::log2(1 + largest)));
    sums[r] = row_sums(first, end - first, c, std::max<int64_t>(1, together));
  });
  SpectralSums total;
  for (const auto& s : sums) {  // in fixed order
    total.effective += s.effective;
    total.slope += s.slope;
    total.log1p += s.log1p;
  }
  return total;
}

SpectralCotangents spectral_cotangents(const KronFactor& factor, double scale, double precision) {
  const auto &alpha = factor.a.values, &beta = factor.b.values;
  const double h = scale * factor.correction;
  if (cuda::takes(alpha)) {
    const auto [a, b] = cuda::spectral_cotangents(alpha, beta, h, precision);
    return {a, b};
  }
  const auto inverse = (h * beta.unsqueeze(2) * alpha.unsqueeze(1) + precision).reciprocal_();
  return {0.5 * h * beta.unsqueeze(1).matmul(inverse).squeeze(1),
          0.5 * h * inverse.matmul(alpha.unsqueeze(2)).squeeze(2)};
}

ModeSums mode_sums(const KronFactor& factor, const ModeCurve& curve, double scale,
                   double precision) {
  const auto inputs = factor.a.values.size(1);
  const auto squares = curve.squares.cpu().contiguous();
  const auto* ps = squares.data_ptr<double>();
  std::vector<ModeSums> sums(factor.a.values.size(0) * factor.b.values.size(1));
  for_each_row(factor, [&](int64_t row, const double* lambda, double times) {
    const double* square = ps + row * inputs;
    const double b = scale * times;
    double norm = 0, cubes = 0;
#pragma omp simd reduction(+ : norm, cubes)
    for (int64_t j = 0; j < inputs; ++j) {
      const double r = 1 / (b * lambda[j] + precision);
      const double t = square[j] * r * r;
      norm += t;
      cubes += t * r;
    }
    sums[row] = {norm, -2 * precision * cubes};
  });
  const double outside = curve.outside / (precision * precision);
  ModeSums total{outside, -2 * outside};
  for (const auto& s : sums) {  // in fixed order
    total.norm += s.norm;
    total.slope += s.slope;
  }
  return total.norm > 0 ? total : ModeSums{};
}

KronCurvature::KronCurvature(std::vector<const Block*> blocks, std::vector<KronFactor> factors,
                             std::vector<double> trace_ratios, int64_t samples)
    : Curvature(std::move(blocks), samples), factors_(std::move(factors)) {
  trace_ratios_ = std::move(trace_ratios);
}

int64_t KronCurvature::decompose(bool bases, torch::ScalarType arithmetic,
                                 const Processes* processes, const KronCurvature* previous,
                                 double tolerance) {
  // Input and output factor of each block in turn. A bias may have its weight's output factor.
  const auto side_of = [&](size_t i) -> SymmetricFactor& {
    return i % 2 == 0 ? factors_[i / 2].a : factors_[i / 2].b;
  };
  std::vector<size_t> first(2 * factors_.size());  // of those that are the same
  std::vector<double> costs;
  for (size_t i = 0; i < first.size(); ++i) {
    for (first[i] = 0; first[i] < i && !side_of(i).is_same(side_of(first[i])); ++first[i]) {
    }
    const auto& side = side_of(i);
    costs.push_back(first[i] < i ? 0
                                 : static_cast<double>(side.groups()) *
                                       std::pow(static_cast<double>(side.dimension()), 3));
  }
  const auto owner = deal_out(costs, processes ? processes->size() : 1);
  auto kept = torch::zeros({}, torch::kFloat64);
  for (size_t i = 0; i < owner.size(); ++i) {
    if (processes && owner[i] != processes->rank()) costs[i] = 0;
    if (!previous || costs[i] == 0) continue;
    const auto& factor = previous->factors_[i / 2];
    const auto& basis = (i % 2 == 0 ? factor.a : factor.b).basis;
    if (!basis.defined() || !side_of(i).keep_basis(basis, tolerance)) continue;
    costs[i] = 0;
    kept += 1;
  }
  const auto decompose_one = [&](size_t i) {
    side_of(i).decompose(
        bases, arithmetic,
        (i % 2 == 0 ? "input factor of " : "output factor of ") + blocks_[i / 2]->name);
  };
  const auto threads = static_cast<int64_t>(at::get_num_threads());
  const auto whole = std::accumulate(costs.begin(), costs.end(), 0.0);
  const auto largest = costs.empty() ? 0.0 : *std::max_element(costs.begin(), costs.end());
  const bool on_cpu = blocks_.empty() || blocks_[0]->value().is_cpu();
  const bool is_shared = on_cpu && threads > 1 && largest * static_cast<double>(threads) <= whole;
  const auto thread_of = deal_out(costs, is_shared ? threads : 1);
  const auto work = [&](int64_t thread) {
    for (size_t i = 0; i < costs.size(); ++i)
      if (costs[i] > 0 && thread_of[i] == thread) decompose_one(i);
  };
  do_part(processes, [&] {
    if (!is_shared) return work(0);
    at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
      torch::NoGradGuard no_grad;  // a thread's own
      for (auto thread = begin; thread < end; ++thread) work(thread);
    });
  });
  for (size_t i = 0; i < owner.size(); ++i) {
    auto& side = side_of(i);
    if (first[i] < i) {
      side = side_of(first[i]);
      continue;
    }
    if (!processes) continue;
    if (owner[i] != processes->rank()) {  // all have the matrix, so all know the shapes
      const auto options = (side.matrix.defined() ? side.matrix : side.rows).options();
      side.values = torch::empty({side.groups(), side.dimension()}, options.dtype(torch::kFloat64));
      if (bases)
        side.basis = torch::empty({side.values.size(0), side.values.size(1), side.values.size(1)},
                                  options.dtype(arithmetic));
    }
    processes->broadcast(side.values, owner[i]);
    if (!bases) continue;
    auto basis = side.basis.to(torch::kFloat64).contiguous();  // retried ones are float64
    processes->broadcast(basis, owner[i]);
    side.basis = basis.to(arithmetic);
  }
  if (processes) processes->sum(kept);
  return static_cast<int64_t>(kept.item<double>());
}

std::vector<LogDet> KronCurvature::log_det(const Precisions& precisions) const {
  std::vector<LogDet> out(factors_.size());
  for (size_t m = 0; m < factors_.size(); ++m) {
    const auto sums =
        spectral_sums(factors_[m], scale_, scalar_precision(precisions[m], *blocks_[m]));
    out[m].ratio = sums.log1p;
    out[m].effective = sums.effective;
    out[m].slope = sums.slope;
  }
  return out;
}

std::string_view KronCurvature::structure() const {
  return !factors_.empty() && factors_.front().spectrum.defined() ? "ekfac" : "kron";
}

namespace {

/// Eigenvalues that agree up to the rounding of the network's sums have no eigenvectors of their
/// own: any rotation among them is as good. The mean of what is seen along them depends on none.
/// `spectra` [Q, ., D], neighbours in values [Q, D] next to each other.
Tensor averaged_over_equals(const Tensor& spectra, const SymmetricFactor& side,
                            torch::ScalarType type) {
  const double rounding = type == torch::kFloat64 ? 1e-13 : 1e-6;
  constexpr double kNear = 1e-3;  // no further apart than this, however small they are
  const auto d = side.values.size(1);
  if (d < 2) return spectra;
  const auto above = side.values.narrow(1, 1, d - 1), below = side.values.narrow(1, 0, d - 1);
  const auto apart =
      torch::minimum(rounding * side.values.amax(1, true), kNear * torch::maximum(above, below));
  const auto starts = ((above - below).abs() > apart).to(torch::kInt64);
  if (starts.sum().item<int64_t>() == starts.numel()) return spectra;
  const auto group =
      torch::cat({torch::zeros({starts.size(0), 1}, starts.options()), starts.cumsum(1)}, 1);
  const auto index = group.unsqueeze(1).expand_as(spectra);
  const auto none = torch::zeros_like(spectra);
  const auto sums = none.scatter_add(2, index, spectra);
  const auto counts = none.scatter_add(2, index, torch::ones_like(spectra)).clamp_min(1);
  return (sums / counts).gather(2, index);
}

}  // namespace

void KronCurvature::set_spectra(std::vector<Tensor> spectra) {
  for (size_t m = 0; m < factors_.size(); ++m) {
    auto& f = factors_[m];
    const auto type = blocks_[m]->value().scalar_type();
    spectra[m] = averaged_over_equals(spectra[m], f.a, type);
    spectra[m] =
        averaged_over_equals(spectra[m].transpose(1, 2), f.b, type).transpose(1, 2).contiguous();
    const auto product = (f.a.traces() * f.b.traces()).sum().item<double>();
    const auto exact = spectra[m].sum().item<double>();
    if (exact > 0 && product > 0) trace_ratios_[m] = product / exact;
    f.correction = 1;
    f.spectrum = std::move(spectra[m]);
  }
}

// With complete bases  P^s G = U_B [(lambda + d)^s o (U_B^T G U_A)] U_A^T; otherwise the directions
// outside the bases have lambda = 0:  P^s G = d^s G + U_B [((lambda + d)^s - d^s) o (..)] U_A^T.
namespace {

Tensor apply_power(const KronFactor& f, const Tensor& lambda, double d, double power,
                   const Tensor& g) {
  const auto type = g.scalar_type();
  const auto ub = f.b.basis.to(type), ua = f.a.basis.to(type);
  const auto rotated = ub.transpose(1, 2).matmul(g).matmul(ua);
  const double outside = f.is_complete() ? 0.0 : std::pow(d, power);
  const auto weight = (lambda + d).pow(power) - outside;
  auto out = ub.matmul(weight.to(type) * rotated).matmul(ua.transpose(1, 2));
  if (outside != 0.0) out.add_(g, outside);
  return out;
}

}  // namespace

std::vector<ModeCurve> KronCurvature::mode_curves(const std::vector<Tensor>& gradient,
                                                  const Precisions& precisions,
                                                  bool smaller) const {
  torch::NoGradGuard no_grad;
  std::vector<ModeCurve> out(factors_.size());
  for (size_t m = 0; m < factors_.size(); ++m) {
    const auto& f = factors_[m];
    const auto type = gradient[m].scalar_type();
    const auto d = scalar_precision(precisions[m], *blocks_[m]);
    const auto ub = f.b.basis.to(type).transpose(1, 2), ua = f.a.basis.to(type);
    const auto theta = blocks_[m]->value().detach().to(type);
    const auto rotated = ub.matmul(theta).matmul(ua).to(torch::kFloat64);
    const auto slope = ub.matmul(gradient[m]).matmul(ua).to(torch::kFloat64);
    const auto lambda = eigenvalues(m);
    const auto here = (lambda + d).mul_(rotated), ahead = (lambda * rotated).add_(slope);
    out[m].squares = smaller ? torch::minimum(here.square(), ahead.square()) : here * ahead;
    if (f.is_complete()) continue;
    const auto outside = [&](const Tensor& x, const Tensor& y, const Tensor& inside) {
      return (x * y).sum(torch::kFloat64).item<double>() - inside.sum().item<double>();
    };
    out[m].outside =
        smaller ? std::max(0.0, std::min(d * d * outside(theta, theta, rotated.square()),
                                         outside(gradient[m], gradient[m], slope.square())))
                : d * outside(gradient[m], theta, slope * rotated);
  }
  return out;
}

std::vector<Tensor> KronCurvature::solve(const std::vector<Tensor>& g, const Precisions& precisions,
                                         double damping) const {
  std::vector<Tensor> out(g.size());
  for (size_t m = 0; m < g.size(); ++m) {
    const auto d = scalar_precision(precisions[m], *blocks_[m]) + damping;
    out[m] = apply_power(factors_[m], eigenvalues(m), d, -1.0, g[m]);
  }
  return out;
}

double KronCurvature::inverse_norm(const std::vector<Tensor>& g,
                                   const Precisions& precisions) const {
  double sum = 0;
  for (size_t m = 0; m < g.size(); ++m) {
    const auto& f = factors_[m];
    const auto d = scalar_precision(precisions[m], *blocks_[m]);
    const auto type = g[m].scalar_type();
    const auto squares =
        f.b.basis.to(type).transpose(1, 2).matmul(g[m]).matmul(f.a.basis.to(type)).square_();
    const auto weight = (eigenvalues(m) + d).reciprocal_();
    sum += (squares * weight).sum().item<double>();
    if (!f.is_complete()) {  // what the thin bases leave out has the prior's precision alone
      const auto all = g[m].square().sum(torch::kFloat64).item<double>();
      sum += std::max(0.0, all - squares.sum(torch::kFloat64).item<double>()) / d;
    }
  }
  return sum;
}

std::vector<Tensor> KronCurvature::sample(const Precisions& precisions,
                                          const Stream& stream) const {
  std::vector<Tensor> out(factors_.size());
  for (size_t m = 0; m < factors_.size(); ++m) {
    const auto value = blocks_[m]->value();
    const auto z = normal_draws(value, stream.split(m)).to(value.scalar_type());
    const auto d = scalar_precision(precisions[m], *blocks_[m]);
    out[m] = apply_power(factors_[m], eigenvalues(m), d, -0.5, z);
  }
  return out;
}

Tensor KronCurvature::output_covariance(const std::vector<Visit>& visits,
                                        const Precisions& precisions) const {
  Tensor out;
  for (size_t m = 0; m < visits.size(); ++m) {
    const auto& [block, x, g] = visits[m];
    const auto& f = factors_[m];
    const auto type = g.scalar_type();
    if (!out.defined()) out = torch::zeros({g.size(1), g.size(0), g.size(0)}, g.options());
    const auto d = scalar_precision(precisions[m], *block);
    const double outside = f.is_complete() ? 0.0 : 1.0 / d;
    const auto variance = (eigenvalues(m) + d).reciprocal() - outside;
    add_output_covariance(*block, x, g, variance.to(type), f.b.basis.to(type), f.a.basis.to(type),
                          out);
    if (outside != 0.0) {
      const auto flat =
          torch::full({f.a.groups(), f.b.dimension(), f.a.dimension()}, outside, g.options());
      add_output_covariance(*block, x, g, flat, Tensor(), Tensor(), out);
    }
  }
  return out;
}

std::vector<double> KronCurvature::covariance_slopes(const std::vector<Visit>& visits,
                                                     const Precisions& precisions,
                                                     const Tensor& loss) const {
  std::vector<double> out;
  for (size_t m = 0; m < visits.size(); ++m) {
    const auto& [block, x, g] = visits[m];
    const auto& f = factors_[m];
    const auto type = g.scalar_type();
    const auto d = scalar_precision(precisions[m], *block);
    const double outside = f.is_complete() ? 0.0 : -1.0 / d;
    const auto slope = -d * (eigenvalues(m) + d).square().reciprocal() - outside;
    auto part = torch::zeros({g.size(1), g.size(0), g.size(0)}, g.options());
    add_output_covariance(*block, x, g, slope.to(type), f.b.basis.to(type), f.a.basis.to(type),
                          part);
    if (outside != 0.0)
      add_output_covariance(
          *block, x, g,
          torch::full({f.a.groups(), f.b.dimension(), f.a.dimension()}, outside, g.options()),
          Tensor(), Tensor(), part);
    out.push_back((loss * part).sum().item<double>());
  }
  return out;
}

}  // namespace evariste
