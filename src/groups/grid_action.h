// Groups acting on grids exactly, by moving pixels.
#pragma once

#include <optional>

#include "groups/group.h"

namespace evariste {

/// (g f)(x) = f(g^-1 x) on a square or cubic grid of `size`, as indices: entry p of the result
/// comes from entry index[p], in the order of rows (grid_points). Nothing where g moves a pixel
/// between others: then values would have to be interpolated.
std::optional<std::vector<int64_t>> grid_action(const Element& g, int size);

}  // namespace evariste
