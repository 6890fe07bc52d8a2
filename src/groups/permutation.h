// The symmetric group S_n: elements, action, sampling. For n points, or the nodes of a graph.
#pragma once

#include <cstdint>
#include <vector>

#include "core/stream.h"

namespace evariste {

/// Thing i goes to place (*this)[i].
class Permutation {
 public:
  /// Throws UsageError unless every place from 0 to n - 1 occurs once.
  explicit Permutation(std::vector<int64_t> places);
  static Permutation identity(int64_t n);
  /// Uniform over all n! (Fisher-Yates).
  static Permutation sample(int64_t n, Draws& draws);
  /// All, in the order of their lists, the identity first; n up to 10.
  static std::vector<Permutation> all(int64_t n);

  int64_t size() const { return static_cast<int64_t>(places_.size()); }
  int64_t operator[](int64_t i) const { return places_[static_cast<size_t>(i)]; }
  bool operator==(const Permutation&) const = default;
  /// First `other`, then this one.
  Permutation operator*(const Permutation& other) const;
  Permutation inverse() const;
  int sign() const;  ///< +1 for an even number of exchanges, -1 for an odd one

  /// (g x)[j] = x[index[j]] for things in rows; for pairs, such as an adjacency matrix, the rows
  /// and the columns take the same index.
  const std::vector<int64_t>& index() const { return index_; }

 private:
  std::vector<int64_t> places_, index_;  // index_: the inverse
};

}  // namespace evariste
