#include "laplace/dense.h"

#include "core/error.h"
#include "laplace/flat.h"
#include "laplace/statistics.h"

namespace evariste {
namespace {

/// [n, C, P] float64
Tensor jacobian_of(const std::vector<Curvature::Visit>& visits) {
  std::vector<Tensor> parts;  // [n, C, P_m]
  for (const auto& [block, x, g] : visits)
    parts.push_back(
        sample_gradients(*block, x, g).to(torch::kFloat64).permute({2, 1, 0, 3, 4}).flatten(2));
  return torch::cat(parts, 2);
}

}  // namespace

DenseCurvature::DenseCurvature(std::vector<const Block*> blocks, Tensor hessian, int64_t samples,
                               std::string_view structure)
    : Curvature(std::move(blocks), samples), hessian_(std::move(hessian)), structure_(structure) {
  for (const auto* block : blocks_) shapes_.push_back(block->value().sizes().vec());
  std::fill(trace_ratios_.begin(), trace_ratios_.end(), 1.0);
}

Tensor DenseCurvature::prior_diagonal(const Precisions& precisions) const {
  return flat_precisions(precisions, blocks_);
}

std::vector<Tensor> DenseCurvature::split(const Tensor& flat) const {
  return split_by_block(flat, blocks_);
}

Tensor DenseCurvature::cholesky(const Precisions& precisions, double damping) const {
  const auto p = scale_ * hessian_ + torch::diag(prior_diagonal(precisions) + damping);
  auto [factor, info] = at::linalg_cholesky_ex(p);
  if (info.item<int64_t>() != 0)
    throw NumericalError(fmt::format(
        "the posterior precision of {} parameters ({} curvature) is not positive definite",
        p.size(0), structure_));
  return factor;
}

double DenseCurvature::log_det_ratio(const Precisions& precisions) const {
  // log|I + P0^-1/2 h H P0^-1/2|: no cancellation of two large log-determinants.
  const auto root = prior_diagonal(precisions).rsqrt();
  const auto whitened = scale_ * root.unsqueeze(1) * hessian_ * root +
                        torch::eye(hessian_.size(0), hessian_.options());
  auto [factor, info] = at::linalg_cholesky_ex(whitened);
  if (info.item<int64_t>() != 0)
    throw NumericalError(fmt::format("the {} curvature of {} parameters is not positive definite",
                                     structure_, hessian_.size(0)));
  return 2 * factor.diagonal().log().sum().item<double>();
}

std::vector<LogDet> DenseCurvature::log_det(const Precisions& precisions) const {
  const auto inverse = at::cholesky_inverse(cholesky(precisions, 0));
  const auto prior = prior_diagonal(precisions);
  const auto share = prior * inverse.diagonal();  // 1 - gamma_i
  const auto gamma = split(1 - share), slopes = split(share * (1 - share));
  std::vector<LogDet> out(blocks_.size());
  int64_t begin = 0;
  for (size_t m = 0; m < blocks_.size(); ++m) {
    const auto count = gamma[m].numel();
    // d P^-1 / d delta_m = -P^-1 E_m P^-1 gives d gamma_m / d rho_m.
    const auto part = inverse.narrow(0, begin, count).narrow(1, begin, count);
    const auto delta = prior.narrow(0, begin, count);
    const auto squares = (delta.unsqueeze(1) * part.square() * delta).sum().item<double>();
    out[m].ratio = std::numeric_limits<double>::quiet_NaN();
    out[m].effective = gamma[m].sum().item<double>();
    out[m].slope = share.narrow(0, begin, count).sum().item<double>() - squares;
    out[m].entries = gamma[m];
    out[m].entry_slopes = slopes[m];
    begin += count;
  }
  return out;
}

std::vector<Tensor> DenseCurvature::solve(const std::vector<Tensor>& g,
                                          const Precisions& precisions, double damping) const {
  std::vector<Tensor> parts;
  for (const auto& part : g) parts.push_back(part.to(torch::kFloat64).flatten());
  const auto solution =
      at::cholesky_solve(torch::cat(parts).unsqueeze(1), cholesky(precisions, damping)).squeeze(1);
  auto out = split(solution);
  for (size_t m = 0; m < out.size(); ++m) out[m] = out[m].to(g[m].scalar_type());
  return out;
}

std::vector<Tensor> DenseCurvature::sample(const Precisions& precisions,
                                           const Stream& stream) const {
  const auto factor = cholesky(precisions, 0);
  const auto z = normal_draws(factor.select(1, 0), stream);
  auto out = split(at::linalg_solve_triangular(factor.t(), z.unsqueeze(1), true).squeeze(1));
  for (size_t m = 0; m < out.size(); ++m) out[m] = out[m].to(blocks_[m]->weight().scalar_type());
  return out;
}

Tensor DenseCurvature::output_covariance(const std::vector<Visit>& visits,
                                         const Precisions& precisions) const {
  const auto jacobian = jacobian_of(visits);
  const auto root =
      at::linalg_solve_triangular(cholesky(precisions, 0), jacobian.flatten(0, 1).t(), false);
  const auto half = root.t().view(jacobian.sizes());
  return half.matmul(half.transpose(1, 2)).to(visits[0].g.scalar_type());
}

std::vector<double> DenseCurvature::covariance_slopes(const std::vector<Visit>& visits,
                                                      const Precisions& precisions,
                                                      const Tensor& loss) const {
  const auto jacobian = jacobian_of(visits);
  const auto solved = at::cholesky_solve(jacobian.flatten(0, 1).t(), cholesky(precisions, 0))
                          .t()
                          .reshape(jacobian.sizes());  // J P^-1
  const auto half = solved * prior_diagonal(precisions).sqrt();
  std::vector<double> out;
  int64_t begin = 0;
  for (const auto* block : blocks_) {
    const auto part = half.narrow(2, begin, block->parameters());
    out.push_back(-(loss * part.matmul(part.transpose(1, 2))).sum().item<double>());
    begin += block->parameters();
  }
  return out;
}

BlockCurvature::BlockCurvature(std::vector<const Block*> blocks, std::vector<Tensor> hessians,
                               int64_t samples)
    : Curvature(std::move(blocks), samples) {
  for (size_t m = 0; m < blocks_.size(); ++m)
    parts_.emplace_back(std::vector<const Block*>{blocks_[m]}, std::move(hessians[m]), samples,
                        "block");
  std::fill(trace_ratios_.begin(), trace_ratios_.end(), 1.0);
}

void BlockCurvature::set_scale(double scale) {
  Curvature::set_scale(scale);
  for (auto& part : parts_) part.set_scale(scale);
}

std::vector<LogDet> BlockCurvature::log_det(const Precisions& precisions) const {
  std::vector<LogDet> out;
  for (size_t m = 0; m < parts_.size(); ++m) {
    out.push_back(parts_[m].log_det({precisions[m]})[0]);
    out.back().ratio = parts_[m].log_det_ratio({precisions[m]});
  }
  return out;
}

std::vector<Tensor> BlockCurvature::solve(const std::vector<Tensor>& g,
                                          const Precisions& precisions, double damping) const {
  std::vector<Tensor> out;
  for (size_t m = 0; m < parts_.size(); ++m)
    out.push_back(parts_[m].solve({g[m]}, {precisions[m]}, damping)[0]);
  return out;
}

std::vector<Tensor> BlockCurvature::sample(const Precisions& precisions,
                                           const Stream& stream) const {
  std::vector<Tensor> out;
  for (size_t m = 0; m < parts_.size(); ++m)
    out.push_back(parts_[m].sample({precisions[m]}, stream.split(m))[0]);
  return out;
}

Tensor BlockCurvature::output_covariance(const std::vector<Visit>& visits,
                                         const Precisions& precisions) const {
  Tensor out;
  for (size_t m = 0; m < parts_.size(); ++m) {
    const auto part = parts_[m].output_covariance({visits[m]}, {precisions[m]});
    out = out.defined() ? out + part : part;
  }
  return out;
}

std::vector<double> BlockCurvature::covariance_slopes(const std::vector<Visit>& visits,
                                                      const Precisions& precisions,
                                                      const Tensor& loss) const {
  std::vector<double> out;
  for (size_t m = 0; m < parts_.size(); ++m)
    out.push_back(parts_[m].covariance_slopes({visits[m]}, {precisions[m]}, loss)[0]);
  return out;
}

}  // namespace evariste
