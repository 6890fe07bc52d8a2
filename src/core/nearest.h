// "Unknown name" messages that say what to type instead.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace evariste {

/// Edit distance with swaps of neighbours (Damerau 1964, restricted). Cost O(|a| |b|).
int edit_distance(std::string_view a, std::string_view b);

/// The known name nearest to `name`, or "" where none is within a third of its length.
std::string nearest_name(std::string_view name, const std::vector<std::string>& known);

/// `unknown key "lrr"; did you mean "lr"? known: epochs, lr`
std::string unknown_name(std::string_view kind, std::string_view name,
                         const std::vector<std::string>& known);

}  // namespace evariste
