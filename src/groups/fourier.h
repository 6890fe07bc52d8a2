// Functions on a group by their Fourier coefficients, and densities that are exponentials of them.
//
// With irreps psi up to a band, a function is sum_psi sqrt(d) sum_{j < m, i} c_{psi,j,i} psi(g)_ij
// with m = d / endomorphisms columns of each psi, an orthonormal set under the Haar measure.
// Coefficients lie as the irreps do in spectral_regular_representation: psi, then column j, then
// row i.
#pragma once

#include "groups/representation.h"

namespace evariste {

/// Values of the basis functions at elements: [elements, coefficients].
Matrix fourier_matrix(const Group& group, int band, const std::vector<Element>& elements);

/// lambda = exp(l)/Z on a group, l the function with coefficients theta up to `band`, and Z such
/// that its mean is 1 (Veefkind & Cesa 2024, section 4). The trivial coefficient does not matter.
/// Integrals are exact for finite groups; for others by quadrature, fine enough for |theta| up to 3
/// (1e-8) and irreps with frequencies up to `resolved`.
class GroupDensity {
 public:
  GroupDensity(GroupPtr group, int band, int resolved = 0);

  int coefficients() const { return static_cast<int>(to_logits_.cols()); }
  int band() const { return band_; }
  const Group& group() const { return *group_; }

  /// What follows from theta [coefficients].
  struct At {
    Vector density;  ///< at nodes()
    double log_normaliser = 0;
    Vector spectrum;        ///< coefficients of lambda up to the same band
    double divergence = 0;  ///< KL(lambda || uniform), nats
    double alignment = 0;   ///< max l - l(identity), over the nodes
  };
  At at(const Vector& theta) const;
  const Quadrature& nodes() const { return quadrature_; }
  /// l at the nodes for coefficients theta: [nodes, coefficients].
  const Matrix& to_logits() const { return to_logits_; }
  /// The same at the identity, [coefficients].
  const Vector& at_identity() const { return at_identity_; }
  /// int lambda(h) psi(h) dh [d, d], from the values at the nodes.
  Matrix expectation(const At& at, const Irrep& irrep) const;

 private:
  GroupPtr group_;
  int band_;
  Quadrature quadrature_;
  Matrix to_logits_;  // [nodes, coefficients]
  Vector at_identity_;
};

}  // namespace evariste
