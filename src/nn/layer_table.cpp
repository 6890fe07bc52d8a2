#include "nn/layer_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/nearest.h"

namespace evariste {
namespace {

/// A size beyond it is a slip of the pen.
constexpr int64_t kLargest = int64_t{1} << 31;

}  // namespace

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

void LayerTable::expect_in_range(std::string_view key, int64_t value, int64_t least) const {
  if (value < least) fail(fmt::format("{}: expected at least {}, found {}", key, least, value));
  if (value > kLargest)
    fail(fmt::format("{}: {} is too large, expected at most {}", key, value, kLargest));
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
  expect_in_range(key, value, least);
  return value;
}

double LayerTable::number(std::string_view key, double fallback, std::string_view expected,
                          bool (*holds)(double)) {
  const auto* node = find(key);
  if (!node) return fallback;
  if (!node->is_number())
    fail(fmt::format("{}: expected {}, found {}", key, expected, toml_kind(*node)));
  const auto value = *node->value<double>();
  if (!std::isfinite(value) || (holds && !holds(value)))
    fail(fmt::format("{}: expected {}, found {}", key, expected, value));
  return value;
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

std::string LayerTable::choice(std::string_view key, const std::vector<std::string>& known) {
  const auto value = text(key, known.front());
  if (std::find(known.begin(), known.end(), value) == known.end())
    fail(fmt::format("{}: {}", key, unknown_name("value", value, known)));
  return value;
}

template <size_t D>
std::array<int64_t, D> LayerTable::sizes(std::string_view key,
                                         std::optional<std::array<int64_t, D>> fallback,
                                         int64_t least) {
  const auto* node = find(key);
  if (!node) {
    if (!fallback) fail(fmt::format("key \"{}\" is missing", key));
    return *fallback;
  }
  std::array<int64_t, D> out{};
  if (node->is_integer()) {
    out.fill(integer(key, {}, least));
    return out;
  }
  const auto* list = node->as_array();
  const bool are_integers =
      list && list->size() == D &&
      std::all_of(list->begin(), list->end(), [](const auto& entry) { return entry.is_integer(); });
  if (!are_integers)
    fail(fmt::format("{}: expected an integer or {}, found {}", key,
                     D == 2 ? "[h, w]" : "[d, h, w]", toml_kind(*node)));
  for (size_t d = 0; d < D; ++d) {
    out[d] = (*list)[d].as_integer()->get();
    expect_in_range(key, out[d], least);
  }
  return out;
}
template std::array<int64_t, 2> LayerTable::sizes(std::string_view,
                                                  std::optional<std::array<int64_t, 2>>, int64_t);
template std::array<int64_t, 3> LayerTable::sizes(std::string_view,
                                                  std::optional<std::array<int64_t, 3>>, int64_t);

const toml::array& LayerTable::list(std::string_view key) {
  const auto* node = find(key);
  if (!node) fail(fmt::format("key \"{}\" is missing", key));
  if (!node->is_array()) fail(fmt::format("{}: expected a list, found {}", key, toml_kind(*node)));
  return *node->as_array();
}

const toml::array& LayerTable::layers(std::string_view key) {
  const auto& found = list(key);
  if (found.empty()) fail(fmt::format("{}: expected at least one layer, found none", key));
  return found;
}

int64_t LayerTable::width(std::string_view key, int64_t classes) {
  const auto* node = find(key);
  if (!node || node->is_integer()) return integer(key);
  if (!node->is_string())
    fail(fmt::format("{}: expected an integer or \"classes\", found {}", key, toml_kind(*node)));
  const auto& word = node->as_string()->get();
  if (word != "classes")
    fail(fmt::format("{}: expected an integer or \"classes\", found \"{}\", a string", key, word));
  if (classes < 1)
    fail(fmt::format("{}: the width \"classes\" needs the number of labels, and none was given",
                     key));
  return classes;
}

void LayerTable::finish(std::string_view owner) const {
  for (const auto& [key, value] : table_) {
    if (asked_.count(std::string(key.str()))) continue;
    fail(unknown_name(fmt::format("{} key", owner), key.str(), {asked_.begin(), asked_.end()}));
  }
}

}  // namespace evariste
