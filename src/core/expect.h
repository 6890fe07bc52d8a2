// Values a user gave that have no meaning: one sentence with the key, the range it has, what was
// found. `key` is what the user wrote: "train.batch" in a TOML file, "--batch" on a command line.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <string_view>

#include "core/error.h"

namespace evariste {

inline void expect_at_least(std::string_view key, int64_t found, int64_t least) {
  if (found < least)
    throw UsageError(fmt::format("{}: expected at least {}, found {}", key, least, found));
}

/// NaN and infinity are never meant.
inline void expect(bool holds, std::string_view key, std::string_view expected, double found) {
  if (!holds || !std::isfinite(found))
    throw UsageError(fmt::format("{}: expected {}, found {}", key, expected, found));
}

inline void expect_positive(std::string_view key, double found) {
  expect(found > 0, key, "a positive number", found);
}

inline void expect_not_negative(std::string_view key, double found) {
  expect(found >= 0, key, "0 or a positive number", found);
}

}  // namespace evariste
