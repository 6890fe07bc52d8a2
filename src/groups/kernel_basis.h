// Bases of kernels on a grid, sorted by how a group turns them.
//
// A kernel K: R^d -> R^{out x in} is turned to (h.K)(x) = rho_out(h) K(h^-1 x) rho_in(h)^-1. The
// kernels that no h changes are those of steerable convolutions (Weiler & Cesa 2019, arXiv
// 1911.08251, eq. 2; Cesa, Lang & Weiler 2022); all others fall into copies of the other irreps
// psi, h.B_a = sum_a' psi(h)_a'a B_a', which a learned degree of equivariance scales (Veefkind &
// Cesa 2024, arXiv 2406.03946). Kernels are harmonics times rings: Y_f(x/|x|) exp(-(|x| - r)^2 / 2
// s^2).
#pragma once

#include "groups/representation.h"

namespace evariste {

/// Radial profiles, and the highest degree of harmonics that each can carry on the grid.
struct Rings {
  std::vector<double> radii, widths;  ///< in pixels
  std::vector<int> degrees;
};

/// ceil(size/2) rings from 0 to (size-1)/2, widths 0.6 (outermost 0.4, a point at the origin), with
/// the degrees of Weiler & Cesa's code ("default1"); times `dilation` in space. `size` is odd.
/// Throws UsageError otherwise.
Rings default_rings(int size, int dimension = 2, int dilation = 1);

/// Number of scalar kernels without any constraint: sum of the harmonics of every ring. In the
/// plane 1, 6, 11, 18, 31 for sizes 1, 3, 5, 7, 9.
int unconstrained_size(const Rings& rings, int dimension);

/// Points [d, P] of a grid of odd size: (x, y) with y up, in the order of an image's rows; in space
/// (x, y, z), slices of falling z, then rows of falling y.
Matrix grid_points(int size, int dimension, int dilation = 1);

struct KernelBasis {
  /// Copies of one irrep: rows offset + copy size + component of `values`.
  struct Part {
    Irrep irrep;
    int offset = 0, copies = 0;
    int count() const { return copies * irrep.size; }
  };
  /// [n, out in P], output component slowest, points fastest. A copy has the squared norm of the
  /// size of its output irrep times that of its own irrep.
  Matrix values;
  std::vector<Part> parts;           ///< in the order of Group::irreps, none empty
  std::vector<int> inputs, outputs;  ///< of every row the places of its irreps in rho_in, rho_out
  int size() const { return static_cast<int>(values.rows()); }
};

/// Only the kernels that the group does not change.
constexpr int kEquivariant = -1;

/// Kernels between two representations of one group, of irreps with frequencies up to `band`.
/// Throws UsageError for representations of two groups. Copies that vanish on the grid are left
/// out. Cost: milliseconds for the plane; products of irreps are kept for the next call.
KernelBasis kernel_basis(const Representation& in, const Representation& out, int size,
                         const Rings& rings, int dilation = 1, int band = kEquivariant);

}  // namespace evariste
