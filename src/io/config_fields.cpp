#include "io/config_fields.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

#include "core/error.h"
#include "core/nearest.h"

namespace evariste::config_fields {

std::string dotted(std::string_view where, std::string_view key) {
  return where.empty() ? std::string(key) : fmt::format("{}.{}", where, key);
}

void refuse_type(const Place& place, const toml::node& found, std::string_view expected) {
  throw UsageError(fmt::format("{}{}: found {}, expected {}", location(place.table, place.key),
                               place.full_name, describe(found), expected));
}

void check_choice(const Place& place, const std::string& value, Choices choices) {
  if (choices.size() == 0) return;
  if (std::find(choices.begin(), choices.end(), value) != choices.end()) return;
  const std::vector<std::string> known(choices.begin(), choices.end());
  throw UsageError(location(place.table, place.key) +
                   unknown_name(fmt::format("value of {}:", place.full_name), value, known));
}

void read(const toml::node& node, const Place& place, bool& value) {
  if (!node.is_boolean()) refuse_type(place, node, "true or false");
  value = node.as_boolean()->get();
}

void read(const toml::node& node, const Place& place, int64_t& value) {
  if (!node.is_integer()) refuse_type(place, node, "an integer");
  value = node.as_integer()->get();
}

void read(const toml::node& node, const Place& place, int& value) {
  int64_t wide = 0;
  read(node, place, wide);
  if (wide < std::numeric_limits<int>::min() || wide > std::numeric_limits<int>::max())
    refuse_type(place, node, "an integer below 2147483648");
  value = static_cast<int>(wide);
}

void read(const toml::node& node, const Place& place, double& value) {
  if (node.is_integer()) {
    value = static_cast<double>(node.as_integer()->get());
    return;
  }
  if (!node.is_floating_point()) refuse_type(place, node, "a number");
  value = node.as_floating_point()->get();
  if (std::isnan(value)) refuse_type(place, node, "a number that is not NaN");
}

void read(const toml::node& node, const Place& place, std::string& value) {
  if (!node.is_string()) refuse_type(place, node, "a string");
  value = node.as_string()->get();
}

void read(const toml::node& node, const Place& place, toml::table& value) {
  if (!node.is_table()) refuse_type(place, node, "a table");
  value = *node.as_table();
}

void read(const toml::node& node, const Place& place, toml::array& value) {
  if (!node.is_array()) refuse_type(place, node, "an array");
  value = *node.as_array();
}

std::string help_line(const std::string& name, const toml::node& value, std::string_view help,
                      Choices choices) {
  std::ostringstream text;
  value.visit([&text](const auto& concrete) { text << concrete; });
  auto line = fmt::format("  {:<36} {}", fmt::format("{} = {}", name, text.str()), help);
  if (choices.size() > 0) line += fmt::format(" ({})", fmt::join(choices, " | "));
  return line + '\n';
}

}  // namespace evariste::config_fields
