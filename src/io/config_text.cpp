// Tables and values as text: the record, its hash, and words for messages.
#include <fmt/format.h>

#include <algorithm>
#include <sstream>

#include "core/error.h"
#include "core/nearest.h"
#include "core/sha256.h"
#include "io/config.h"

namespace evariste {
namespace {

/// [tables] outside arrays and {tables} inside, however they were written, so that equal tables
/// have equal text.
void normalise(toml::node& node, bool in_array) {
  if (auto* table = node.as_table()) {
    table->is_inline(in_array);
    for (auto&& [key, value] : *table) normalise(value, in_array);
  } else if (auto* array = node.as_array()) {
    for (auto& element : *array) normalise(element, true);
  }
}

}  // namespace

std::string to_text(const toml::table& table) {
  toml::table copy = table;
  normalise(copy, false);
  std::ostringstream text;
  text << toml::toml_formatter(copy, toml::format_flags::allow_unicode_strings);
  text << '\n';
  return text.str();
}

std::string config_hash(const toml::table& table) { return sha256_hex(to_text(table)); }

std::string location(const toml::table& table, std::string_view key) {
  const auto it = table.find(key);
  if (it == table.end()) return "";
  const auto& source = it->first.source();
  if (source.path == nullptr) return "";
  if (source.path->starts_with("--set ")) return *source.path + ": ";
  return fmt::format("{}:{}: ", *source.path, source.begin.line);
}

std::string describe(const toml::node& value) {
  switch (value.type()) {
    case toml::node_type::string:
      return fmt::format("the string \"{}\"", value.as_string()->get());
    case toml::node_type::integer:
      return fmt::format("the integer {}", value.as_integer()->get());
    case toml::node_type::floating_point:
      return fmt::format("the number {}", value.as_floating_point()->get());
    case toml::node_type::boolean:
      return value.as_boolean()->get() ? "true" : "false";
    case toml::node_type::array:
      return "an array";
    case toml::node_type::table:
      return "a table";
    default:
      return "a date or time";
  }
}

void expect_known_keys(const toml::table& table, const std::vector<std::string>& known,
                       std::string_view where) {
  for (const auto& [key, value] : table) {
    if (std::find(known.begin(), known.end(), key.str()) != known.end()) continue;
    std::vector<std::string> names;
    for (const auto& name : known) names.push_back(config_fields::dotted(where, name));
    throw UsageError(location(table, key.str()) +
                     unknown_name("key", config_fields::dotted(where, key.str()), names));
  }
}

}  // namespace evariste
