// Fields of a group as fields of one of its subgroups: what is behind need commute with the
// subgroup alone (Weiler & Cesa 2019, section 2.6).
#pragma once

#include "nn/field_type.h"
#include "nn/pointwise.h"

namespace evariste {

/// A field of G is a representation rho of H < G too, of other matrices' names: its channels fall
/// into those that H mixes with one another, and these are
///
///   permutations    as "regular" or "/K" fields of H, or "trivial" ones, channel by channel;
///   anything else   a sum of irreps of H, Q (psi_1 + ... + psi_m) Q^T: Q^T times it are fields of
///                   these irreps.
///
/// So y = B x of each field with B orthogonal, most often a permutation; then fields of one kind
/// are brought together, in the order of the kinds they come from. Fields "<L" become fields "<L"
/// where their irreps are those of a whole number of them. A permutation whose channels no named
/// subgroup keeps has a name that no file may say, "channels 0 2 of KIND of GROUP".
struct Restriction {
  FieldType fields;
  std::vector<Matrix> bases;    ///< B of each kind of G, [d, d]
  std::vector<int64_t> places;  ///< channel i of the output is channel places[i] of B x
};
/// Throws UsageError where H is no subgroup.
Restriction restricted(const FieldType& fields, const GroupPtr& subgroup);

/// The layer; buffers basis_k, B of each kind, float64, and basis_order, the places.
class FieldRestriction : public Gather {
 public:
  FieldRestriction(const FieldType& fields, const GroupPtr& subgroup);
  const FieldType& out() const { return out_; }

  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;

 protected:
  Tensor transpose(const Tensor& g, const Tape& tape) const override;

 private:
  FieldRestriction(const FieldType& fields, Restriction restriction);
  /// All of it as one product with [C, C], or undefined where it is a permutation alone, `from_`.
  void prepare() const;

  FieldType out_;
  std::vector<int64_t> counts_;  // fields of each kind
  std::vector<Tensor> bases_;
  Tensor order_;

  mutable std::vector<std::pair<const void*, int64_t>> prepared_for_;
  mutable Tensor from_;    // [C]: y_i = x_from
  mutable Tensor matrix_;  // [C, C] float64, defined where from_ is not
};

}  // namespace evariste
