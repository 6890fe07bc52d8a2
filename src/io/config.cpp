// Parsing, presets and --set.
#include "io/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/nearest.h"
#include "io/atomic_file.h"

namespace evariste {
namespace {

constexpr std::array<std::string_view, 3> kPresets = {"quick", "reduced", "paper"};

/// Parser messages are sentences of their own; ours are one sentence.
std::string as_clause(std::string_view text) {
  while (!text.empty() && (text.back() == '.' || text.back() == ' ')) text.remove_suffix(1);
  std::string clause(text);
  std::replace(clause.begin(), clause.end(), '\n', ' ');
  return clause;
}

std::vector<std::string> preset_names(const toml::table& table) {
  std::vector<std::string> names;
  for (const auto name : kPresets)
    if (table.contains(name)) names.emplace_back(name);
  return names;
}

void apply_preset(toml::table& table, const std::filesystem::path& file,
                  const std::string& preset) {
  if (std::find(kPresets.begin(), kPresets.end(), preset) == kPresets.end())
    throw UsageError(unknown_name("preset", preset, {kPresets.begin(), kPresets.end()}));
  const auto names = preset_names(table);
  if (names.empty()) return;  // a resolved configuration
  const auto* chosen = table.get(preset);
  if (chosen == nullptr)
    throw UsageError(fmt::format("{}: has no preset \"{}\", only: {}", file.string(), preset,
                                 fmt::join(names, ", ")));
  for (const auto& name : names)
    if (!table.get(name)->is_table())
      throw UsageError(fmt::format("{}preset \"{}\" is {}, expected a table", location(table, name),
                                   name, describe(*table.get(name))));
  const toml::table over = *chosen->as_table();
  for (const auto& name : names) table.erase(name);
  merge_over(table, over);
}

/// One `key = value` as TOML, or the text as it stands.
toml::table parse_set_value(std::string_view key, std::string_view text,
                            const std::string& source) {
  try {
    auto parsed = toml::parse(fmt::format("value = {}", text), source);
    if (parsed.size() == 1) {  // a line break in the value could smuggle in a second key
      toml::table one;
      const toml::source_region region{{1, 1}, {1, 1}, std::make_shared<const std::string>(source)};
      one.insert(toml::key(key, region), *parsed.get("value"));
      return one;
    }
  } catch (const toml::parse_error&) {
  }
  toml::table one;
  const toml::source_region region{{1, 1}, {1, 1}, std::make_shared<const std::string>(source)};
  one.insert(toml::key(key, region), std::string(text));
  return one;
}

void apply_set(toml::table& table, const std::string& set) {
  const auto equals = set.find('=');
  if (equals == std::string::npos || equals == 0)
    throw UsageError(fmt::format("--set {}: expected KEY=VALUE, as in --set train.lr=0.1", set));
  const auto source = fmt::format("--set {}", set);
  std::string_view path = std::string_view(set).substr(0, equals);
  const auto value = std::string_view(set).substr(equals + 1);

  toml::table* target = &table;
  std::string passed;
  for (size_t dot; (dot = path.find('.')) != std::string_view::npos; path.remove_prefix(dot + 1)) {
    const auto part = path.substr(0, dot);
    if (part.empty()) throw UsageError(fmt::format("{}: a part of the key is empty", source));
    passed = config_fields::dotted(passed, part);
    auto* node = target->get(part);
    if (node == nullptr) {
      const toml::source_region region{{1, 1}, {1, 1}, std::make_shared<const std::string>(source)};
      node = &target->insert(toml::key(part, region), toml::table{}).first->second;
    }
    if (!node->is_table())
      throw UsageError(
          fmt::format("{}: \"{}\" is {}, expected a table", source, passed, describe(*node)));
    target = node->as_table();
  }
  if (path.empty()) throw UsageError(fmt::format("{}: a part of the key is empty", source));
  target->erase(path);  // so that the key remembers --set as its place
  merge_over(*target, parse_set_value(path, value, source));
}

}  // namespace

toml::table parse_toml(std::string_view text, std::string_view name) {
  try {
    return toml::parse(text, name);
  } catch (const toml::parse_error& error) {
    throw UsageError(
        fmt::format("{}:{}: {}", name, error.source().begin.line, as_clause(error.description())));
  }
}

toml::table parse_toml_file(const std::filesystem::path& file) {
  return parse_toml(read_file(file), file.string());
}

void merge_over(toml::table& a, const toml::table& b) {
  for (const auto& [key, value] : b) {
    auto* old = a.get(key);
    if (old != nullptr && old->is_table() && value.is_table()) {
      merge_over(*old->as_table(), *value.as_table());
      continue;
    }
    a.erase(key);  // not assigned: the key carries the line it was written on
    value.visit([&a, &key = key](const auto& concrete) { a.insert(key, concrete); });
  }
}

toml::table resolve_config(const std::filesystem::path& file, const std::string& preset,
                           const std::vector<std::string>& sets) {
  auto table = parse_toml_file(file);
  apply_preset(table, file, preset);
  for (const auto& set : sets) apply_set(table, set);
  return table;
}

}  // namespace evariste
