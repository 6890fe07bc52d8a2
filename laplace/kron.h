// Kronecker-factored curvature: H_m ~ c_m B_m (x) A_m for each block and group (Martens & Grosse
// 2015; expand and reduce for shared weights: Eschenhagen et al. 2023).
//
//   A = (1/N) sum_{n,t} a a^T      B = (1/T) sum_{n,t,r} g g^T     c_m = tr F_m / tr(B_m (x) A_m)
//
// c_m is the trace correction: expand-KFAC misstates the curvature of convolutions by up to a
// factor of 50, differently per pathway; one exact number per block repairs it. c_m = 1 without it.
// EKFAC (George et al. 2018) repairs every eigenvalue: in the basis U_B (x) U_A the diagonal is
//   s_ij = sum_{n,r} (U_B^T G_nr U_A)_ij^2,
// the best one in Frobenius norm for that basis among those that are equal over equal eigenvalues.
#pragma once

#include "laplace/curvature.h"
#include "laplace/processes.h"
#include "laplace/symmetric_factor.h"

namespace evariste {

/// One block: eigenvalues lambda[q,i,j] = correction * b.values[q,i] * a.values[q,j], or those of
/// EKFAC.
struct KronFactor {
  SymmetricFactor a;  ///< input side, dimension J
  SymmetricFactor b;  ///< output side, dimension O
  double correction = 1.0;
  Tensor spectrum;  ///< EKFAC: the eigenvalues themselves, [Q, k_B, k_A] float64; else undefined

  /// lambda [Q, k_B, k_A] without the scale h.
  Tensor eigenvalues() const;
  /// Bases span the whole space on both sides.
  bool is_complete() const { return a.is_complete() && b.is_complete(); }
};

/// Sums over the spectrum of one block with one precision.
struct SpectralSums {
  double log1p = 0;      ///< sum log(1 + lambda/delta)
  double effective = 0;  ///< sum lambda/(lambda + delta)
  double slope = 0;      ///< sum lambda delta/(lambda + delta)^2
};

/// scale multiplies every lambda. Cost O(number of eigenvalues above 1e-17 delta; EKFAC: all), one
/// division each and hardly any logarithm; the sum has a fixed order.
SpectralSums spectral_sums(const KronFactor& factor, double scale, double precision);

/// Derivatives of 1/2 log|H + delta| of one block in the eigenvalues of its factors.
struct SpectralCotangents {
  Tensor a;  ///< [Q, k_A] float64: 1/2 sum_i h c beta_i / (h lambda_ij + delta)
  Tensor b;  ///< [Q, k_B] float64: 1/2 sum_j h c alpha_j / (h lambda_ij + delta)
};

/// h = scale, c the factor's correction; for Kronecker spectra, not EKFAC's. Cost O(k_A k_B).
SpectralCotangents spectral_cotangents(const KronFactor& factor, double scale, double precision);

/// The mode of one block as a function of its precision, theta(d) = (H + d)^-1 b: what a quadratic
/// model of the log-likelihood says the weights will do when the precision changes.
struct ModeCurve {
  Tensor squares;      ///< estimate of b^2 in the eigenbasis, [Q, O, J] float64; entries may be < 0
  double outside = 0;  ///< its sum where the bases do not reach (lambda = 0)
};

/// Sums over one block of its predicted mode.
struct ModeSums {
  double norm = 0;   ///< |theta(d)|^2 = sum b^2/(lambda + d)^2, at least 0
  double slope = 0;  ///< d norm / d log d = -2 d sum b^2/(lambda + d)^3; 0 where norm is
};

/// Cost O(parameters of the block).
ModeSums mode_sums(const KronFactor& factor, const ModeCurve& curve, double scale,
                   double precision);

class KronCurvature : public Curvature {
 public:
  /// trace_ratios[m] = tr(B (x) A)/tr F, or NaN where it was not measured.
  KronCurvature(std::vector<const Block*> blocks, std::vector<KronFactor> factors,
                std::vector<double> trace_ratios, int64_t samples);

  /// Decomposes what is not decomposed. Values alone serve log_det; bases all the rest.
  /// With `processes` each of them does its part of the work, and its threads share that where no
  /// single factor is most of it. Bases of `previous`, a curvature of the same blocks, are kept
  /// where they will do (SymmetricFactor::keep_basis). Returns how many were.
  int64_t decompose(bool bases, torch::ScalarType arithmetic = torch::kFloat64,
                    const Processes* processes = nullptr, const KronCurvature* previous = nullptr,
                    double tolerance = 0);

  const std::vector<KronFactor>& factors() const { return factors_; }

  /// b^2 of each block from weights that need not be at the mode, g = d log p(D|theta)/d theta
  /// [Q, O, J] at them. Two estimates of b, equal at the mode of the present precisions d:
  ///   (H + d) theta   takes the weights for the mode; wrong by the noise of the steps, and by what
  ///                   the prior has not pulled in yet
  ///   H theta + g     one Newton step on; free of both, wrong by what other blocks explain as well
  /// As far as their errors are unrelated the product has no bias, where the square of either has
  /// one. `smaller` takes the smaller square of each direction instead, for weights that are
  /// so far from a mode that neither alone may hold a precision down. Needs bases.
  std::vector<ModeCurve> mode_curves(const std::vector<Tensor>& gradient,
                                     const Precisions& precisions, bool smaller = false) const;

  std::vector<LogDet> log_det(const Precisions& precisions) const override;
  std::vector<Tensor> solve(const std::vector<Tensor>& g, const Precisions& precisions,
                            double damping) const override;
  /// Rotates each block once, half the cost of solve.
  double inverse_norm(const std::vector<Tensor>& g, const Precisions& precisions) const override;
  std::vector<Tensor> sample(const Precisions& precisions, const Stream& stream) const override;
  Tensor output_covariance(const std::vector<Visit>& visits,
                           const Precisions& precisions) const override;
  std::vector<double> covariance_slopes(const std::vector<Visit>& visits,
                                        const Precisions& precisions,
                                        const Tensor& loss) const override;
  bool takes_entry_precisions() const override { return false; }
  std::string_view structure() const override;

  /// h lambda over the eigenbasis of a block, [Q, k_B, k_A].
  Tensor eigenvalues(size_t block) const { return scale_ * factors_[block].eigenvalues(); }
  /// From now on EKFAC: one spectrum per block, whose sum is the exact trace. Over eigenvalues of a
  /// factor that are equal (images in several frames have such) it is averaged, as their
  /// eigenvectors are any.
  void set_spectra(std::vector<Tensor> spectra);

 private:
  std::vector<KronFactor> factors_;
};

}  // namespace evariste
