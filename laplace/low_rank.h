// Low-rank curvature: the leading eigenpairs of the whole GGN, across blocks,
//
//   H ~ U diag(lambda) U^T,   U [P, k],
//
// by randomised subspace iteration (Halko, Martinsson & Tropp 2011) on products H V: one forward
// derivative and one folded backward per column, no Jacobian. With W = P0^-1/2 U (h lambda)^1/2 and
// M = I + W^T W everything follows from k x k matrices (Woodbury):
//
//   log|P| - log|P0| = log|M|,   P^-1 = P0^-1/2 (I - W M^-1 W^T) P0^-1/2.
#pragma once

#include "laplace/fit.h"

namespace evariste {

class LowRankCurvature : public Curvature {
 public:
  /// U [P, k] orthonormal, entries of all blocks in order; values [k] > 0. float64.
  LowRankCurvature(std::vector<const Block*> blocks, Tensor basis, Tensor values, int64_t samples);

  const Tensor& basis() const { return basis_; }
  const Tensor& values() const { return values_; }

  /// A block's ratio is NaN: eigenvectors reach across blocks.
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
  std::string_view structure() const override { return "lowrank"; }

 private:
  struct Outputs;
  Tensor whitened(const Tensor& prior) const;  // W [P, k]
  Outputs outputs_of(const std::vector<Visit>& visits, const Tensor& prior) const;

  Tensor basis_, values_;
};

struct LowRankOptions {
  int64_t rank = 20;
  int64_t iterations = 4;    ///< of the subspace; each is a pass over the data
  int64_t oversampling = 8;  ///< columns more than `rank` while iterating
  int64_t batch = 250;
  std::vector<std::string> only;  ///< as in CurvatureOptions
  Stream stream = Stream(0);      ///< of the first subspace
};

/// Fits the leading eigenpairs; eigenvalues that are zero to rounding are left out, so there may be
/// fewer than asked for. Cost (iterations + 2) (rank + oversampling) (forward derivative +
/// backward), memory P (rank + oversampling). The evidence is an upper bound of that of the whole
/// GGN, since log|P| grows with every eigenvalue.
Fit fit_low_rank(Layer& network, const Likelihood& likelihood, const Samples& data,
                 const LowRankOptions& options);

}  // namespace evariste
