// What a convolution does with a grid of any dimension.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <numeric>
#include <vector>

namespace evariste {

/// Axes in the order of a tensor's: rows, then columns; in space slices first.
template <size_t D>
struct GridGeometry {
  static constexpr size_t kDimension = D;
  using Sizes = std::array<int64_t, D>;

  static constexpr Sizes all(int64_t value) {
    Sizes out{};
    for (auto& each : out) each = value;
    return out;
  }

  Sizes kernel = all(1), stride = all(1), padding = all(0), dilation = all(1);
  int64_t groups = 1;
  bool circular = false;  ///< padding_mode "circular", else "zeros"

  /// Of the output for an input of these sizes; 0 where the kernel does not fit.
  template <class... Integers>
  Sizes output_size(Integers... sizes) const {
    static_assert(sizeof...(Integers) == D);
    return output_size(Sizes{static_cast<int64_t>(sizes)...});
  }
  Sizes output_size(const Sizes& sizes) const {
    Sizes out{};
    for (size_t d = 0; d < D; ++d) {
      const auto room = sizes[d] + 2 * padding[d] - dilation[d] * (kernel[d] - 1) - 1;
      out[d] = room < 0 ? 0 : room / stride[d] + 1;
    }
    return out;
  }
  /// The same for a tensor of these sizes, [n, C, grid...].
  template <class Shape>
  Sizes output_of(const Shape& shape) const {
    Sizes sizes{};
    for (size_t d = 0; d < D; ++d) sizes[d] = shape[d + 2];
    return output_size(sizes);
  }
  /// Entries of the kernel for a pair of channels.
  int64_t points() const {
    return std::accumulate(kernel.begin(), kernel.end(), int64_t{1}, std::multiplies<>());
  }
  /// [outputs, inputs / groups, kernel...]
  std::vector<int64_t> weight_shape(int64_t outputs, int64_t inputs) const {
    std::vector<int64_t> shape = {outputs, inputs / groups};
    shape.insert(shape.end(), kernel.begin(), kernel.end());
    return shape;
  }
};

}  // namespace evariste
