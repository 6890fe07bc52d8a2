#include "groups/permutation.h"

#include <algorithm>
#include <numeric>

#include "core/expect.h"

namespace evariste {

Permutation::Permutation(std::vector<int64_t> places)
    : places_(std::move(places)), index_(places_.size(), -1) {
  for (size_t i = 0; i < places_.size(); ++i) {
    const auto place = places_[i];
    if (place < 0 || place >= size() || index_[static_cast<size_t>(place)] >= 0)
      throw UsageError(
          fmt::format("permutation of {}: expected each of 0 ... {} once, found {} at place {}",
                      size(), size() - 1, place, i));
    index_[static_cast<size_t>(place)] = static_cast<int64_t>(i);
  }
}

Permutation Permutation::identity(int64_t n) {
  std::vector<int64_t> places(static_cast<size_t>(n));
  std::iota(places.begin(), places.end(), 0);
  return Permutation(std::move(places));
}

Permutation Permutation::sample(int64_t n, Draws& draws) {
  auto places = identity(n).places_;
  for (size_t i = places.size(); i > 1; --i) std::swap(places[i - 1], places[draws.below(i)]);
  return Permutation(std::move(places));
}

std::vector<Permutation> Permutation::all(int64_t n) {
  if (n < 0 || n > 10)
    throw UsageError(fmt::format("all permutations: expected at most 10 things, found {}", n));
  auto places = identity(n).places_;
  std::vector<Permutation> out;
  do out.emplace_back(places);
  while (std::next_permutation(places.begin(), places.end()));
  return out;
}

Permutation Permutation::operator*(const Permutation& other) const {
  if (size() != other.size())
    throw UsageError(
        fmt::format("product of permutations of {} and {} things", size(), other.size()));
  auto places = other.places_;
  for (auto& place : places) place = (*this)[place];
  return Permutation(std::move(places));
}

Permutation Permutation::inverse() const { return Permutation(index_); }

int Permutation::sign() const {
  std::vector<bool> is_done(places_.size(), false);
  int sign = 1;
  for (size_t i = 0; i < places_.size(); ++i)
    for (auto j = static_cast<size_t>(places_[i]); !is_done[i] && j != i;
         j = static_cast<size_t>(places_[j])) {
      is_done[j] = true;  // a cycle of length l has l - 1 exchanges
      sign = -sign;
    }
  return sign;
}

}  // namespace evariste
