#include "nn/autocorrelation.h"

#include <map>

#include "laplace/gram.h"

namespace evariste {
namespace {

/// A kernel row: where its first input row lies, in steps of the stride within its phase.
struct KernelRow {
  int64_t phase, first;
};

/// Pairs of kernel rows whose products differ only in the rows they sum over.
struct Key {
  int64_t phase, other_phase, shift;
  auto operator<=>(const Key&) const = default;
};

struct Pair {
  int64_t row, other;  // kernel rows, row <= other
  int64_t first;       // of the window, in rows of the first one's phase
};

/// All pairs of kernel rows, by what they share.
std::map<Key, std::vector<Pair>> pairs_of(int64_t rows, int64_t stride, int64_t dilation) {
  std::map<Key, std::vector<Pair>> pairs;
  const auto place = [&](int64_t y) {
    return KernelRow{(y * dilation) % stride, (y * dilation) / stride};
  };
  for (int64_t y = 0; y < rows; ++y)
    for (int64_t other = y; other < rows; ++other) {
      const auto a = place(y), b = place(other);
      pairs[{a.phase, b.phase, b.first - a.first}].push_back({y, other, a.first});
    }
  return pairs;
}

}  // namespace

double patch_gram_flops(int64_t positions, int64_t channels, const ConvGeometry& geometry) {
  const auto side = geometry.kernel[1] * channels / geometry.groups;
  double products = 0;
  for (const auto& [key, list] :
       pairs_of(geometry.kernel[0], geometry.stride[0], geometry.dilation[0])) {
    const bool is_symmetric = key.phase == key.other_phase && key.shift == 0;
    products += static_cast<double>(is_symmetric ? side + 1 : 2 * side);
  }
  return products * static_cast<double>(geometry.groups * positions * side);
}

Tensor patch_gram(const Tensor& padded, const ConvGeometry& geometry) {
  const auto n = padded.size(0), channels = padded.size(1), height = padded.size(2),
             width = padded.size(3);
  const auto [kh, kw] = geometry.kernel;
  const auto [sy, sx] = geometry.stride;
  const auto [dy, dx] = geometry.dilation;
  const auto groups = geometry.groups, c = channels / groups, side = kw * c;
  const auto rows = (height - dy * (kh - 1) - 1) / sy + 1;
  const auto columns = (width - dx * (kw - 1) - 1) / sx + 1;

  // [phase][G, H_phase, n W_out, kw C/G]: one copy, of runs of kw C/G entries where possible
  std::vector<Tensor> unfolded(sy);
  const auto line = width * channels;
  for (int64_t phase = 0; phase < std::min(sy, height); ++phase) {
    const auto tall = (height - phase + sy - 1) / sy;
    unfolded[phase] =
        padded
            .as_strided({groups, tall, n, columns, kw, c},
                        {c, sy * line, height * line, sx * channels, dx * channels, 1},
                        padded.storage_offset() + phase * line)
            .contiguous()
            .view({groups, tall, n * columns, side});
  }
  const auto product = [&](const Key& key, int64_t begin, int64_t count) {
    const auto flat = [&](int64_t phase, int64_t from) {
      return unfolded[phase].narrow(1, from, count).view({groups, count * n * columns, side});
    };
    const auto left = flat(key.phase, begin);
    if (key.phase == key.other_phase && key.shift == 0) return gram(left);
    return left.transpose(1, 2)
        .matmul(flat(key.other_phase, begin + key.shift))
        .to(torch::kFloat64);
  };

  const auto pairs = pairs_of(kh, sy, dy);
  const auto wide = padded.options().dtype(torch::kFloat64);
  auto gram = torch::zeros({groups, kh, side, kh, side}, wide);
  for (const auto& [key, list] : pairs) {
    // All windows [first, first + rows) share [last first, first of all + rows); the rest, at most
    // a few rows on either side, is added row by row.
    const auto lowest = list.front().first, highest = list.back().first;
    const auto core_begin = std::min(highest, lowest + rows), core_end = lowest + rows;
    Tensor core;
    if (core_end > core_begin) core = product(key, core_begin, core_end - core_begin);
    std::map<int64_t, Tensor> edges;
    const auto edge = [&](int64_t row) -> const Tensor& {
      auto& one = edges[row];
      if (!one.defined()) one = product(key, row, 1);
      return one;
    };
    for (const auto& pair : list) {
      auto sum = core.defined() ? core.clone() : torch::zeros({groups, side, side}, wide);
      for (auto row = pair.first; row < pair.first + rows; ++row)
        if (!core.defined() || row < core_begin || row >= core_end) sum += edge(row);
      gram.select(1, pair.row).select(2, pair.other).copy_(sum);
      if (pair.other != pair.row)
        gram.select(1, pair.other).select(2, pair.row).copy_(sum.transpose(1, 2));
    }
  }
  // (y, x, c) -> (c, y, x)
  return gram.view({groups, kh, kw, c, kh, kw, c})
      .permute({0, 3, 1, 2, 6, 4, 5})
      .reshape({groups, c * kh * kw, c * kh * kw});
}

}  // namespace evariste
