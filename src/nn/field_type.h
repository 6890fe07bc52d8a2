// What the channels of an image transform by: fields of a few kinds, kind by kind.
#pragma once

#include "groups/representation.h"

namespace evariste {

struct FieldType {
  struct Kind {
    std::string name;  ///< as in a network file, "regular"
    Representation representation;
    int64_t count;  ///< of fields; channels of a field lie side by side
    int64_t channels() const { return count * representation.size(); }
    /// Numbers that do not transform.
    bool is_trivial() const {
      return representation.size() == 1 && representation.irreps()[0].is_trivial;
    }
  };
  GroupPtr group;
  std::vector<Kind> kinds;

  int64_t channels() const;
  int64_t fields() const;
  /// Every pointwise function commutes with the group.
  bool is_permutation() const;
  bool is_trivial() const;
  /// rho(g) of all channels, block diagonal.
  Matrix at(const Element& g) const;
  /// "C8: 4 regular, 2 (1)"
  std::string text() const;

  /// `count` channels that do not transform.
  static FieldType trivial(const GroupPtr& group, int64_t count);
  /// From "4 regular", "2 (1,1)" ...: a number and trivial, regular, an irrep of the group, "/H"
  /// (the cosets of a subgroup H) or "<L" (the irreps up to frequency L, each as often as the
  /// regular representation has it); a+b (a field of a and one of b, side by side, as one) and a^2
  /// or [a+b]^2 (the products of its components, as a sum of irreps: groups/symmetric_square.h) of
  /// such. Throws UsageError naming the group's irreps for other words.
  static FieldType parse(const GroupPtr& group, const std::vector<std::string>& fields);
};

}  // namespace evariste
