// Random numbers are an argument, named by purpose.
//
// A Stream is a seed that is split by name or index. The same path gives the same numbers whatever
// the thread count, batch size or call order, resumed or not. Numbers come from a counter
// (SplitMix64, Steele et al. 2014), so that nothing has to be stored to resume.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>
#include <string_view>

namespace evariste {

constexpr uint64_t split_mix_64(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

constexpr uint64_t fnv1a(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325ULL;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return hash;
}

__extension__ typedef unsigned __int128 uint128;

class Stream {
 public:
  explicit constexpr Stream(uint64_t seed) : key_(split_mix_64(seed)) {}
  constexpr Stream split(uint64_t index) const { return Stream(key_ ^ split_mix_64(index + 1)); }
  constexpr Stream split(std::string_view name) const { return Stream(key_ ^ fnv1a(name)); }
  constexpr uint64_t key() const { return key_; }  ///< seeds a torch::Generator

 private:
  uint64_t key_;
};

/// The numbers of one stream, in order.
class Draws {
 public:
  explicit constexpr Draws(const Stream& stream) : key_(stream.key()) {}

  constexpr uint64_t bits() { return split_mix_64(key_ + 0x9e3779b97f4a7c15ULL * counter_++); }
  /// Uniform on [0, 1), 53 bits.
  constexpr double uniform() { return static_cast<double>(bits() >> 11) * 0x1.0p-53; }
  constexpr double uniform(double low, double high) { return low + (high - low) * uniform(); }
  /// Uniform on {0, ..., n-1}, by 128-bit multiplication (bias below 2^-64 n).
  constexpr uint64_t below(uint64_t n) {
    return static_cast<uint64_t>((static_cast<uint128>(bits()) * n) >> 64);
  }
  /// Standard normal (Box-Muller, one of the pair).
  double normal() {
    const double radius = std::sqrt(-2.0 * std::log1p(-uniform()));
    return radius * std::cos(2.0 * std::numbers::pi * uniform());
  }

 private:
  uint64_t key_;
  uint64_t counter_ = 0;
};

}  // namespace evariste
