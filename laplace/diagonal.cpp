#include "laplace/diagonal.h"

#include "laplace/statistics.h"

namespace evariste {

DiagonalCurvature::DiagonalCurvature(std::vector<const Block*> blocks,
                                     std::vector<Tensor> diagonals, int64_t samples)
    : Curvature(std::move(blocks), samples), diagonals_(std::move(diagonals)) {
  std::fill(trace_ratios_.begin(), trace_ratios_.end(), 1.0);
}

std::vector<LogDet> DiagonalCurvature::log_det(const Precisions& precisions) const {
  std::vector<LogDet> out(diagonals_.size());
  for (size_t m = 0; m < diagonals_.size(); ++m) {
    const auto ratio = scale_ * diagonals_[m] / precisions[m];
    const auto share = ratio / (1 + ratio);
    out[m].ratio = ratio.log1p().sum().item<double>();
    out[m].effective = share.sum().item<double>();
    out[m].entries = share;
    out[m].entry_slopes = share / (1 + ratio);
    out[m].slope = out[m].entry_slopes.sum().item<double>();
  }
  return out;
}

std::vector<Tensor> DiagonalCurvature::solve(const std::vector<Tensor>& g,
                                             const Precisions& precisions, double damping) const {
  std::vector<Tensor> out(g.size());
  for (size_t m = 0; m < g.size(); ++m)
    out[m] = g[m] / (scale_ * diagonals_[m] + precisions[m] + damping).to(g[m].scalar_type());
  return out;
}

std::vector<Tensor> DiagonalCurvature::sample(const Precisions& precisions,
                                              const Stream& stream) const {
  std::vector<Tensor> out(diagonals_.size());
  for (size_t m = 0; m < diagonals_.size(); ++m) {
    const auto z = normal_draws(diagonals_[m], stream.split(m));
    out[m] = (z * (scale_ * diagonals_[m] + precisions[m]).rsqrt())
                 .to(blocks_[m]->weight().scalar_type());
  }
  return out;
}

Tensor DiagonalCurvature::output_covariance(const std::vector<Visit>& visits,
                                            const Precisions& precisions) const {
  Tensor out;
  for (size_t m = 0; m < visits.size(); ++m) {
    const auto& [block, x, g] = visits[m];
    if (!out.defined()) out = torch::zeros({g.size(1), g.size(0), g.size(0)}, g.options());
    const auto variance = (scale_ * diagonals_[m] + precisions[m]).reciprocal();
    add_output_covariance(*block, x, g, variance.to(g.scalar_type()), Tensor(), Tensor(), out);
  }
  return out;
}

std::vector<double> DiagonalCurvature::covariance_slopes(const std::vector<Visit>& visits,
                                                         const Precisions& precisions,
                                                         const Tensor& loss) const {
  std::vector<double> out;
  for (size_t m = 0; m < visits.size(); ++m) {
    const auto& [block, x, g] = visits[m];
    const auto slope = -precisions[m] / (scale_ * diagonals_[m] + precisions[m]).square();
    auto part = torch::zeros({g.size(1), g.size(0), g.size(0)}, g.options());
    add_output_covariance(*block, x, g, slope.to(g.scalar_type()), Tensor(), Tensor(), part);
    out.push_back((loss * part).sum().item<double>());
  }
  return out;
}

}  // namespace evariste
