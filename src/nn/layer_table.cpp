#include "nn/layer_table.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/nearest.h"

namespace evariste {

std::string_view toml_kind(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table:
      return "a table";
    case toml::node_type::array:
      return "a list";
    case toml::node_type::string:
      return "a string";
    case toml::node_type::integer:
      return "an integer";
    case toml::node_type::floating_point:
      return "a number";
    case toml::node_type::boolean:
      return "a boolean";
    default:
      return "a date";
  }
}

void LayerTable::fail(const std::string& message) const {
  const auto line = table_.source().begin.line;
  throw UsageError(line > 0 ? fmt::format("{} (line {}): {}", place_, line, message)
                            : fmt::format("{}: {}", place_, message));
}

const toml::node* LayerTable::find(std::string_view key) {
  asked_.emplace(key);
  return table_.get(key);
}

int64_t LayerTable::integer(std::string_view key, std::optional<int64_t> fallback, int64_t least) {
  const auto* node = find(key);
  if (!node) {
    if (!fallback) fail(fmt::format("key \"{}\" is missing", key));
    return *fallback;
  }
  if (!node->is_integer())
    fail(fmt::format("{}: expected an integer, found {}", key, toml_kind(*node)));
  const auto value = node->as_integer()->get();
  if (value < least) fail(fmt::format("{}: expected at least {}, found {}", key, least, value));
  if (value > (int64_t{1} << 31)) fail(fmt::format("{}: {} is too large", key, value));
  return value;
}

double LayerTable::number(std::string_view key, std::optional<double> fallback) {
  const auto* node = find(key);
  if (!node) {
    if (!fallback) fail(fmt::format("key \"{}\" is missing", key));
    return *fallback;
  }
  if (!node->is_number())
    fail(fmt::format("{}: expected a number, found {}", key, toml_kind(*node)));
  return *node->value<double>();
}

bool LayerTable::boolean(std::string_view key, bool fallback) {
  const auto* node = find(key);
  if (!node) return fallback;
  if (!node->is_boolean())
    fail(fmt::format("{}: expected true or false, found {}", key, toml_kind(*node)));
  return node->as_boolean()->get();
}

std::string LayerTable::text(std::string_view key, std::optional<std::string> fallback) {
  const auto* node = find(key);
  if (!node) {
    if (!fallback) fail(fmt::format("key \"{}\" is missing", key));
    return *fallback;
  }
  if (!node->is_string())
    fail(fmt::format("{}: expected a string, found {}", key, toml_kind(*node)));
  return node->as_string()->get();
}

std::array<int64_t, 2> LayerTable::pair(std::string_view key,
                                        std::optional<std::array<int64_t, 2>> fallback,
                                        int64_t least) {
  const auto* node = find(key);
  if (!node) {
    if (!fallback) fail(fmt::format("key \"{}\" is missing", key));
    return *fallback;
  }
  if (node->is_integer()) {
    const auto value = integer(key, {}, least);
    return {value, value};
  }
  const auto* list = node->as_array();
  if (!list || list->size() != 2 || !(*list)[0].is_integer() || !(*list)[1].is_integer())
    fail(fmt::format("{}: expected an integer or [h, w], found {}", key, toml_kind(*node)));
  std::array<int64_t, 2> out = {(*list)[0].as_integer()->get(), (*list)[1].as_integer()->get()};
  for (const auto value : out)
    if (value < least || value > (int64_t{1} << 31))
      fail(fmt::format("{}: expected at least {}, found {}", key, least, value));
  return out;
}

const toml::array& LayerTable::list(std::string_view key) {
  const auto* node = find(key);
  if (!node) fail(fmt::format("key \"{}\" is missing", key));
  if (!node->is_array()) fail(fmt::format("{}: expected a list, found {}", key, toml_kind(*node)));
  if (node->as_array()->empty()) fail(fmt::format("{}: expected at least one layer", key));
  return *node->as_array();
}

int64_t LayerTable::width(std::string_view key, int64_t classes) {
  const auto* node = table_.get(key);
  if (classes > 0 && node && node->is_string() && node->as_string()->get() == "classes") {
    find(key);
    return classes;
  }
  if (classes > 0 && node && node->is_string())
    fail(unknown_name(fmt::format("{}: expected an integer or \"classes\"; width", key),
                      node->as_string()->get(), {"classes"}));
  return integer(key);
}

void LayerTable::finish(std::string_view type) const {
  for (const auto& [key, value] : table_) {
    if (key.str() == "type" || asked_.count(std::string(key.str()))) continue;
    std::vector<std::string> known(asked_.begin(), asked_.end());
    known.emplace_back("type");
    std::sort(known.begin(), known.end());
    fail(unknown_name(fmt::format("key of a {} layer", type), key.str(), known));
  }
}

}  // namespace evariste
