// Diagonal curvature: the exact diagonal of the GGN, one number per parameter.
#pragma once

#include "laplace/curvature.h"

namespace evariste {

class DiagonalCurvature : public Curvature {
 public:
  /// diagonals[m] [Q, O, J] float64, >= 0.
  DiagonalCurvature(std::vector<const Block*> blocks, std::vector<Tensor> diagonals,
                    int64_t samples);

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
  std::string_view structure() const override { return "diag"; }
  const std::vector<Tensor>& diagonals() const { return diagonals_; }

 private:
  std::vector<Tensor> diagonals_;
};

}  // namespace evariste
