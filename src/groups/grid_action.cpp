#include "groups/grid_action.h"

#include <cmath>

namespace evariste {

std::optional<std::vector<int64_t>> grid_action(const Element& g, int size) {
  const auto d = g.rows();
  const double centre = (size - 1) / 2.0;
  int64_t points = 1;
  for (Eigen::Index i = 0; i < d; ++i) points *= size;
  std::vector<int64_t> index(static_cast<size_t>(points));
  for (int64_t p = 0; p < points; ++p) {
    // (column, row, slice) -> (x, y, z) with y and z falling.
    const int64_t places[] = {p % size, p / size % size, p / (int64_t{size} * size)};
    Vector x(d);
    for (Eigen::Index i = 0; i < d; ++i)
      x[i] = (i == 0 ? 1 : -1) * (static_cast<double>(places[i]) - centre);
    const Vector from = g.transpose() * x;
    int64_t place = 0, stride = 1;
    for (Eigen::Index i = 0; i < d; ++i) {
      const double exact = (i == 0 ? 1 : -1) * from[i] + centre;
      const double nearest = std::round(exact);
      if (std::abs(exact - nearest) > 1e-6 || nearest < 0 || nearest >= size) return std::nullopt;
      place += stride * static_cast<int64_t>(nearest);
      stride *= size;
    }
    index[static_cast<size_t>(p)] = place;
  }
  return index;
}

}  // namespace evariste
