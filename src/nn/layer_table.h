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
  bool has(std::string_view key) const { return table_.contains(key); }

  int64_t integer(std::string_view key, std::optional<int64_t> fallback = {}, int64_t least = 1);
  double number(std::string_view key, std::optional<double> fallback = {});
  bool boolean(std::string_view key, bool fallback);
  std::string text(std::string_view key, std::optional<std::string> fallback = {});
  /// A number or [h, w].
  std::array<int64_t, 2> pair(std::string_view key, std::optional<std::array<int64_t, 2>> fallback,
                              int64_t least);
  /// A list of tables, or of lists of tables.
  const toml::array& list(std::string_view key);
  /// An integer, or the word "classes" where `classes` > 0 is known.
  int64_t width(std::string_view key, int64_t classes);

  /// Throws UsageError where a key has not been asked for.
  void finish(std::string_view type) const;
  [[noreturn]] void fail(const std::string& message) const;

 private:
  const toml::node* find(std::string_view key);

  const toml::table& table_;
  std::string place_;
  std::set<std::string> asked_;
};

/// "a string", "an integer" ... for messages.
std::string_view toml_kind(const toml::node& node);

}  // namespace evariste
