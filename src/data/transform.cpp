#include "data/transform.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/nn/functional.h>

#include <numeric>

#include "core/error.h"
#include "data/expect_images.h"

namespace evariste {
namespace {

/// [1, C, 1, 1] float32
torch::Tensor per_channel(const std::vector<double>& values) {
  return torch::tensor(values, torch::kFloat32).view({1, -1, 1, 1});
}

}  // namespace

void expect_images(const torch::Tensor& x, torch::ScalarType dtype, const char* what) {
  if (x.dim() == 4 && x.scalar_type() == dtype && x.device().is_cpu()) return;
  throw UsageError(fmt::format("{}: images must be [N, C, H, W] {} on the CPU, got [{}] {} on {}",
                               what, torch::toString(dtype), fmt::join(x.sizes().vec(), ", "),
                               torch::toString(x.scalar_type()), x.device().str()));
}

void expect_per_sample(const torch::Tensor& values, const torch::Tensor& x, torch::ScalarType dtype,
                       std::vector<int64_t> rest, const char* what) {
  rest.insert(rest.begin(), x.size(0));
  if (values.sizes() == rest && values.scalar_type() == dtype && values.device().is_cpu()) return;
  throw UsageError(fmt::format("{} must be [{}] {} on the CPU, got [{}] {} on {}", what,
                               fmt::join(rest, ", "), torch::toString(dtype),
                               fmt::join(values.sizes().vec(), ", "),
                               torch::toString(values.scalar_type()), values.device().str()));
}

void expect_official_order(const Dataset& dataset, const char* what) {
  if (torch::equal(sample_index(dataset), torch::arange(dataset.size(), torch::kInt64))) return;
  throw UsageError(
      fmt::format("{}: the reference draws need the samples of \"{}\" in their official order; "
                  "take subsets after",
                  what, dataset.name));
}

torch::Tensor normalise(const torch::Tensor& x, const Normalisation& normalisation) {
  if (x.dim() == 5) return normalise(x.flatten(3), normalisation).view(x.sizes());
  expect_images(x, torch::kUInt8, "normalise");
  const auto channels = static_cast<size_t>(x.size(1));
  if (normalisation.mean.size() != channels || normalisation.std.size() != channels) {
    throw UsageError(fmt::format("normalise: images have {} channels, the normalisation {} and {}",
                                 channels, normalisation.mean.size(), normalisation.std.size()));
  }
  return x.to(torch::kFloat32)
      .div_(255)
      .sub_(per_channel(normalisation.mean))
      .div_(per_channel(normalisation.std));
}

torch::Tensor resize(const torch::Tensor& x, int64_t side) {
  if (x.dim() != 5) expect_images(x, torch::kFloat32, "resize");
  if (side < 1) throw UsageError(fmt::format("resize: side {} must be at least 1", side));
  namespace F = torch::nn::functional;
  if (x.dim() == 5)
    return F::interpolate(x, F::InterpolateFuncOptions()
                                 .size(std::vector<int64_t>{side, side, side})
                                 .mode(torch::kTrilinear)
                                 .align_corners(false));
  return F::interpolate(x, F::InterpolateFuncOptions()
                               .size(std::vector<int64_t>{side, side})
                               .mode(torch::kBilinear)
                               .align_corners(false));
}

Dataset normalised(const Dataset& dataset) {
  auto result = dataset;
  result.x = normalise(dataset.x, dataset.normalisation);
  return result;
}

Dataset resized(const Dataset& dataset, int64_t side) {
  auto result = dataset;
  result.x = resize(dataset.x, side);
  return result;
}

torch::Tensor random_permutation(int64_t n, const Stream& stream) {
  auto permutation = torch::arange(n, torch::kInt64);
  auto* p = permutation.data_ptr<int64_t>();
  Draws draws(stream.split("permutation"));
  // From the front, so that the first m entries are settled after m draws.
  for (int64_t i = 0; i + 1 < n; ++i)
    std::swap(p[i], p[i + static_cast<int64_t>(draws.below(static_cast<uint64_t>(n - i)))]);
  return permutation;
}

Dataset subset(const Dataset& dataset, const torch::Tensor& rows) {
  if (rows.dim() != 1 || rows.scalar_type() != torch::kInt64) {
    throw UsageError(fmt::format("subset: rows must be [M] Long, got [{}] {}",
                                 fmt::join(rows.sizes().vec(), ", "),
                                 torch::toString(rows.scalar_type())));
  }
  if (rows.numel() > 0) {
    const auto low = rows.min().item<int64_t>(), high = rows.max().item<int64_t>();
    if (low < 0 || high >= dataset.size()) {
      throw UsageError(fmt::format("subset: row {} of \"{}\", which has {} samples",
                                   low < 0 ? low : high, dataset.name, dataset.size()));
    }
  }
  auto result = dataset;
  result.x = dataset.x.index_select(0, rows);
  result.y = dataset.y.index_select(0, rows);
  result.index = sample_index(dataset).index_select(0, rows);
  return result;
}

Dataset random_subset(const Dataset& dataset, int64_t n, const Stream& stream) {
  if (n < 1 || n > dataset.size()) {
    throw UsageError(fmt::format("a subset of {} samples of \"{}\", which has {}", n, dataset.name,
                                 dataset.size()));
  }
  return subset(dataset, random_permutation(dataset.size(), stream).narrow(0, 0, n));
}

}  // namespace evariste
