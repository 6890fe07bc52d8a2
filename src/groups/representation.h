// Orthogonal representations as direct sums of irreps: rho(g) = Q (psi_1(g) + ... + psi_n(g)) Q^T.
#pragma once

#include "groups/group.h"

namespace evariste {

/// What a feature field transforms by. A value; Q is the identity where none is given.
class Representation {
 public:
  Representation(GroupPtr group, std::vector<Irrep> irreps, Matrix basis = {});

  const Group& group() const { return *group_; }
  const GroupPtr& group_ptr() const { return group_; }
  int size() const { return size_; }
  const std::vector<Irrep>& irreps() const { return irreps_; }
  /// First column of Q that belongs to irrep i.
  int offset(size_t i) const { return offsets_[i]; }
  const Matrix& basis() const { return basis_; }
  bool has_identity_basis() const;
  /// rho(g) [size, size]; throws UsageError for elements of other groups.
  Matrix at(const Element& g) const;
  /// Every rho(g) permutes the coordinates: pointwise functions commute with it. Finite groups.
  bool is_permutation() const;

 private:
  GroupPtr group_;
  std::vector<Irrep> irreps_;
  Matrix basis_;
  std::vector<int> offsets_;
  int size_ = 0;
};

Representation trivial_representation(GroupPtr group);
Representation irrep_representation(GroupPtr group, std::string_view irrep);
Representation direct_sum(const std::vector<Representation>& parts);

/// Decomposes g -> rho(g) [size, size], orthogonal, with irreps up to `band`. Copies of an irrep
/// come one behind the other, irreps in the group's order; the basis is that of a Gram-Schmidt of
/// fixed order, so it is the same on every machine and of few entries. Throws UsageError where
/// irreps up to the band do not fill the space. Cost O(nodes size^2 (1 + irreps)).
Representation decomposed(GroupPtr group, int size,
                          const std::function<Matrix(const Element&)>& rho, int band);

/// rho_a (x) rho_b, index of b running fastest: the columns of basis() are Clebsch-Gordan
/// coefficients.
Representation tensor_product(const GroupPtr& group, const Irrep& a, const Irrep& b);
/// The harmonics of a degree (Group::harmonics) as a representation.
Representation harmonic_representation(const GroupPtr& group, int degree);

/// Finite groups: e_h -> e_{gh}, in the order of elements().
Representation regular_representation(GroupPtr group);
/// Irreps up to `band`, each as often as the regular representation has it (size / endomorphisms),
/// in the basis of the irreps: of a group's functions, their Fourier coefficients (fourier.h).
Representation spectral_regular_representation(GroupPtr group, int band);
/// Permutation of the cosets g H of a finite group, H being one of its subgroups.
Representation quotient_representation(const GroupPtr& group, const Group& subgroup);
/// Ind_H^G sigma of a finite group and a representation of one of its subgroups: blocks by cosets,
/// representatives the first of each in elements().
Representation induced_representation(const GroupPtr& group, const Representation& sigma);
/// The same matrices on a subgroup, decomposed anew.
Representation restricted(const Representation& rho, const GroupPtr& subgroup);

/// Channels of rho that no element mixes: places that transform by a representation of their own,
/// in ascending order (what a restriction to a subgroup falls into).
struct Component {
  std::vector<int> channels;
  Representation representation;
};
std::vector<Component> disentangled(const Representation& rho);

}  // namespace evariste
