// Reads one layer's table of a network file: typed keys, defaults, and nothing left over.
#pragma once

#include <toml++/toml.h>

#include <array>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace evariste {

class LayerTable {
 public:
  /// place: "net.toml: layer[3]"
  LayerTable(const toml::table& table, std::string place)
      : table_(table), place_(std::move(place)) {}

  const std::string& place() const { return place_; }

  int64_t integer(std::string_view key, std::optional<int64_t> fallback = {}, int64_t least = 1);
  /// A finite number, for which `holds` where that is given; `expected` says it in words.
  double number(std::string_view key, double fallback,
                std::string_view expected = "a finite number", bool (*holds)(double) = nullptr);
  bool boolean(std::string_view key, bool fallback);
  std::string text(std::string_view key, std::optional<std::string> fallback = {});
  /// One of `known`, the first where the key is absent.
  std::string choice(std::string_view key, const std::vector<std::string>& known);
  /// A number or one for each axis: [h, w], [d, h, w].
  template <size_t D>
  std::array<int64_t, D> sizes(std::string_view key, std::optional<std::array<int64_t, D>> fallback,
                               int64_t least);
  /// Whatever the key has; null where it is absent.
  const toml::node* any(std::string_view key) { return find(key); }
  const toml::array& list(std::string_view key);
  /// A list of at least one layer.
  const toml::array& layers(std::string_view key);
  /// An integer, or the word "classes" for the number of labels; that is 0 where it is not known.
  int64_t width(std::string_view key, int64_t classes);

  /// Throws UsageError where a key has not been asked for. owner: "conv", for the message.
  void finish(std::string_view owner) const;
  [[noreturn]] void fail(const std::string& message) const;

 private:
  const toml::node* find(std::string_view key);
  void expect_in_range(std::string_view key, int64_t value, int64_t least) const;

  const toml::table& table_;
  std::string place_;
  std::set<std::string> asked_;
};

/// "a string", "an integer" ... for messages.
std::string_view toml_kind(const toml::node& node);

}  // namespace evariste
