// Products of a field's components, decomposed: what tensor product nonlinearities are made of.
#pragma once

#include "groups/representation.h"

namespace evariste {

/// The symmetric part of rho (x) rho as a sum of irreps, and how the products x_a x_b of a vector's
/// components make it:
///
///     y_e = sum_{a <= b} C[e, (a, b)] x_a x_b,      y(rho(g) x) = representation(g) y(x).
///
/// Of size d(d + 1)/2, in the basis of its irreps: those of each irrep of rho with itself, then
/// with the ones behind it. |y| = |x|^2.
struct SymmetricSquare {
  Representation representation;
  Matrix coefficients;  ///< C [d(d + 1)/2, d(d + 1)/2], pairs (0, 0), (0, 1) ... (1, 1), (1, 2) ...
};

/// Cost O(d^4) and one decomposition for every pair of different irreps. Throws UsageError for more
/// than 64 channels.
SymmetricSquare symmetric_square(const Representation& rho);

}  // namespace evariste
