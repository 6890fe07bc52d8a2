// The visitors behind from_toml, to_toml and help_text; included by io/config.h.
#pragma once

#include <concepts>
#include <type_traits>

#include "io/config.h"

namespace evariste {
namespace config_fields {

using Choices = std::initializer_list<std::string_view>;

/// Where a value stands: for messages.
struct Place {
  const toml::table& table;
  std::string_view key;   ///< in `table`
  std::string full_name;  ///< dotted
};

std::string dotted(std::string_view where, std::string_view key);
[[noreturn]] void refuse_type(const Place& place, const toml::node& found,
                              std::string_view expected);
void check_choice(const Place& place, const std::string& value, Choices choices);
std::string help_line(const std::string& name, const toml::node& value, std::string_view help,
                      Choices choices);

void read(const toml::node& node, const Place& place, bool& value);
void read(const toml::node& node, const Place& place, int& value);
void read(const toml::node& node, const Place& place, int64_t& value);
void read(const toml::node& node, const Place& place, double& value);
void read(const toml::node& node, const Place& place, std::string& value);
void read(const toml::node& node, const Place& place, toml::table& value);
void read(const toml::node& node, const Place& place, toml::array& value);

template <class T>
constexpr bool is_vector = false;
template <class E>
constexpr bool is_vector<std::vector<E>> = true;

struct AnyVisitor {
  template <class V>
  void operator()(std::string_view, V&, std::string_view, Choices = {}) const {}
};
/// A struct with a visit of our kind; that of toml++'s nodes is another.
template <class T>
concept Visitable = !std::derived_from<T, toml::node> && requires(T & t, AnyVisitor v) {
  t.visit(v);
};

/// Takes the values of a table, then refuses the keys nobody asked for.
class Reader {
 public:
  Reader(const toml::table& table, std::string_view where) : table_(table), where_(where) {}

  template <class V>
  void operator()(std::string_view key, V& value, std::string_view /*help*/, Choices choices = {}) {
    known_.emplace_back(key);
    const auto* node = table_.get(key);
    if (node == nullptr) return;
    const Place place{table_, key, dotted(where_, key)};
    take(*node, place, value);
    if constexpr (std::same_as<V, std::string>) check_choice(place, value, choices);
    if constexpr (std::same_as<V, std::vector<std::string>>)
      for (const auto& element : value) check_choice(place, element, choices);
  }

  void refuse_unknown() const { expect_known_keys(table_, known_, where_); }

 private:
  template <class V>
  static void take(const toml::node& node, const Place& place, V& value) {
    if constexpr (Visitable<V>) {
      if (!node.is_table()) refuse_type(place, node, "a table");
      Reader nested(*node.as_table(), place.full_name);
      value.visit(nested);
      nested.refuse_unknown();
    } else if constexpr (is_vector<V>) {
      if (!node.is_array()) refuse_type(place, node, "an array");
      value.clear();
      for (const auto& element : *node.as_array()) {
        typename V::value_type one{};  // a temporary also serves std::vector<bool>
        take(element, place, one);
        value.push_back(std::move(one));
      }
    } else {
      read(node, place, value);
    }
  }

  const toml::table& table_;
  std::string where_;
  std::vector<std::string> known_;
};

/// Puts every field into a table.
class Writer {
 public:
  explicit Writer(toml::table& table) : table_(table) {}

  template <class V>
  void operator()(std::string_view key, V& value, std::string_view /*help*/, Choices = {}) {
    table_.insert_or_assign(key, to_node(value));
  }

 private:
  template <class V>
  static auto to_node(V& value) {
    if constexpr (Visitable<V>) {
      toml::table nested;
      value.visit(Writer(nested));
      return nested;
    } else if constexpr (is_vector<V>) {
      toml::array array;
      for (auto&& element : value) {
        typename V::value_type one = element;
        array.push_back(to_node(one));
      }
      return array;
    } else if constexpr (std::same_as<V, int>) {
      return static_cast<int64_t>(value);
    } else {
      return value;
    }
  }

  toml::table& table_;
};

/// Writes a line of help per field.
class HelpWriter {
 public:
  HelpWriter(std::string& text, std::string_view where) : text_(text), where_(where) {}

  template <class V>
  void operator()(std::string_view key, V& value, std::string_view help, Choices choices = {}) {
    const auto name = dotted(where_, key);
    if constexpr (Visitable<V>) {
      value.visit(HelpWriter(text_, name));
    } else {
      toml::table one;
      Writer writer(one);
      writer(key, value, help);
      text_ += help_line(name, *one.get(key), help, choices);
    }
  }

 private:
  std::string& text_;
  std::string where_;
};

}  // namespace config_fields

template <class T>
T from_toml(const toml::table& table, std::string_view where) {
  T config{};
  config_fields::Reader reader(table, where);
  config.visit(reader);
  reader.refuse_unknown();
  return config;
}

template <class T>
toml::table to_toml(const T& config) {
  T copy = config;  // visit is one function for reading and writing, so it is not const
  toml::table table;
  copy.visit(config_fields::Writer(table));
  return table;
}

template <class T>
std::string help_text(std::string_view where) {
  T config{};
  std::string text;
  config.visit(config_fields::HelpWriter(text, where));
  return text;
}

}  // namespace evariste
