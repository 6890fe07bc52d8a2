// Real harmonics on the sphere and how they rotate.
//
// Degree l has 2 l + 1 harmonics in the order m = -l ... l; degree 1 is (y, z, x). They are
// scaled so that |Y_l(x)| = 1 on the whole sphere, and Y_l(R x) = D_l(R) Y_l(x) with D_l
// orthogonal.
#pragma once

#include "groups/group.h"

namespace evariste {

/// D_0 ... D_l of a rotation R [3, 3], by recursion in l (Ivanic & Ruedenberg 1996, with the
/// corrections of 1998). Costs O(l^4); entries good to a few 1e-15 for l up to 10.
std::vector<Matrix> wigner_matrices(int l, const Element& rotation);
Matrix wigner_matrix(int l, const Element& rotation);

/// Y_l at a point other than the origin, whose length does not matter: [2 l + 1].
Vector spherical_harmonics(int l, const Eigen::Vector3d& x);

/// D_a (x) D_b = sum of D_j for j = |a-b| ... a+b: the orthonormal columns [(2a+1)(2b+1), 2j+1]
/// that span the part of degree j, (D_a (x) D_b) C = C D_j. By Racah's sum; sign: first entry that
/// is not zero positive.
Matrix clebsch_gordan_so3(int a, int b, int j);

}  // namespace evariste
