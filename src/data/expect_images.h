// Checks at the door of the transformations; internal to src/data.
#pragma once

#include "data/dataset.h"

namespace evariste {

/// Throws UsageError unless x is [N, C, H, W] of this dtype on the CPU. `what` names the function.
void expect_images(const torch::Tensor& x, torch::ScalarType dtype, const char* what);

/// Throws UsageError unless `values` is [x.size(0), rest...] of this dtype.
void expect_per_sample(const torch::Tensor& values, const torch::Tensor& x, torch::ScalarType dtype,
                       std::vector<int64_t> rest, const char* what);

/// Throws UsageError unless the samples are 0 ... N-1 in order, which the reference draws assume.
void expect_official_order(const Dataset& dataset, const char* what);

}  // namespace evariste
