// Dense curvature: over all given blocks jointly (the full GGN, or that of the last layer), or of
// every block by itself.
#pragma once

#include "laplace/curvature.h"

namespace evariste {

/// H [P, P] float64 with the blocks' entries concatenated in order, each as [Q, O, J] row-major.
/// Cost O(P^3) per precision; P up to a few thousand.
class DenseCurvature : public Curvature {
 public:
  DenseCurvature(std::vector<const Block*> blocks, Tensor hessian, int64_t samples,
                 std::string_view structure);

  /// Per block: ratio NaN, gamma exact: the trace of its part of I - P0 P^-1.
  std::vector<LogDet> log_det(const Precisions& precisions) const override;
  double log_det_ratio(const Precisions& precisions) const override;
  std::vector<Tensor> solve(const std::vector<Tensor>& g, const Precisions& precisions,
                            double damping) const override;
  std::vector<Tensor> sample(const Precisions& precisions, const Stream& stream) const override;
  Tensor output_covariance(const std::vector<Visit>& visits,
                           const Precisions& precisions) const override;
  std::vector<double> covariance_slopes(const std::vector<Visit>& visits,
                                        const Precisions& precisions,
                                        const Tensor& loss) const override;
  bool takes_entry_precisions() const override { return true; }
  std::string_view structure() const override { return structure_; }
  const Tensor& hessian() const { return hessian_; }

 private:
  Tensor prior_diagonal(const Precisions& precisions) const;            // [P]
  Tensor cholesky(const Precisions& precisions, double damping) const;  // of P, lower
  std::vector<Tensor> split(const Tensor& flat) const;                  // [P] -> [Q, O, J] each

  Tensor hessian_;
  std::vector<std::vector<int64_t>> shapes_;
  std::string structure_;
};

/// The exact GGN of every block by itself, H_m [P_m, P_m] float64, blocks independent of each
/// other. Cost O(sum P_m^3) per precision.
class BlockCurvature : public Curvature {
 public:
  BlockCurvature(std::vector<const Block*> blocks, std::vector<Tensor> hessians, int64_t samples);

  std::vector<LogDet> log_det(const Precisions& precisions) const override;
  std::vector<Tensor> solve(const std::vector<Tensor>& g, const Precisions& precisions,
                            double damping) const override;
  std::vector<Tensor> sample(const Precisions& precisions, const Stream& stream) const override;
  Tensor output_covariance(const std::vector<Visit>& visits,
                           const Precisions& precisions) const override;
  std::vector<double> covariance_slopes(const std::vector<Visit>& visits,
                                        const Precisions& precisions,
                                        const Tensor& loss) const override;
  bool takes_entry_precisions() const override { return true; }
  std::string_view structure() const override { return "block"; }
  void set_scale(double scale) override;
  const Tensor& hessian(size_t block) const { return parts_[block].hessian(); }

 private:
  std::vector<DenseCurvature> parts_;
};

}  // namespace evariste
