// TOML configurations. One description of a struct serves parsing, help and the record:
//
//      struct TrainConfig {
//        double lr = 0.1;
//        std::string curvature = "kron";
//        template <class Visitor>
//        void visit(Visitor&& field) {
//          field("lr", lr, "step size of the weight optimiser");
//          field("curvature", curvature, "structure of the Hessian", {"kron", "diag", "full"});
//        }
//      };
//
// A field is a bool, int, int64_t, double (integers are accepted), std::string, a std::vector of
// these, a struct with its own `visit` (a TOML table), a vector of such structs (an array of
// tables), or a raw toml::table or toml::array. Keys that are absent keep their default.
#pragma once

// clang-format off
#include <toml++/toml.h>
// clang-format on

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace evariste {

/// Reads a struct. `where` is the dotted name of the table, for messages ("" at the top).
/// Throws UsageError with file, line and full key: an unknown key (and the nearest known one), a
/// wrong type (what was found and expected), a NaN, or a value that is none of the listed choices.
template <class T>
T from_toml(const toml::table& table, std::string_view where = "");

/// Every field with its value: what from_toml reads back to an equal struct.
template <class T>
toml::table to_toml(const T& config);

/// One line per key: dotted name below `where`, default, meaning and choices.
template <class T>
std::string help_text(std::string_view where = "");

/// The configuration of a run: base keys of the file, over them its table [PRESET], over these each
/// `a.b.c=value` of `sets`, in order. Presets are quick, reduced and paper; a file without preset
/// tables is a resolved configuration and takes any. A value that is not valid TOML is a bare
/// string. Throws UsageError: no such file, a syntax error (file:line), a preset that the file
/// lacks, a `--set` without `=` or through something that is not a table.
toml::table resolve_config(const std::filesystem::path& file, const std::string& preset,
                           const std::vector<std::string>& sets);

/// Parses a TOML file or text; `name` stands for the file in messages. Throws UsageError.
toml::table parse_toml_file(const std::filesystem::path& file);
toml::table parse_toml(std::string_view text, std::string_view name);

/// `b` laid over `a`: tables merge key by key, anything else replaces.
void merge_over(toml::table& a, const toml::table& b);

/// Stable text: keys sorted, doubles to their last digit, [tables] outside arrays. Parsing gives
/// the same table, and the same text again.
std::string to_text(const toml::table& table);

/// SHA-256 of `to_text`.
std::string config_hash(const toml::table& table);

/// Where a key was written: `configs/digit.toml:12: `, `--set lr=1: `, or "" where unknown; to
/// stand in front of a message.
std::string location(const toml::table& table, std::string_view key);

/// A value in words, for messages: `the string "abc"`, `the number 3`, `a table`.
std::string describe(const toml::node& value);

/// Throws UsageError at the first key of `table` that is not known.
void expect_known_keys(const toml::table& table, const std::vector<std::string>& known,
                       std::string_view where = "");

}  // namespace evariste

#include "io/config_fields.h"
