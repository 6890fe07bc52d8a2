// Points of the plane and what O(2) does to numbers made of them (Veefkind & Cesa 2024): their
// length, which no element of O(2) changes, and the cosine of their angle, which the reflection
// about the first axis alone keeps.
#pragma once

#include "data/dataset.h"

namespace evariste {

constexpr int64_t kVectorTargets = 2;  // |v|, v_1/|v|

/// x [N, 2, 1, 1] float32 uniform in [-1, 1]^2, y [N, 2] float32 as above; 10 000 for training and
/// 2 000 for tests. Nothing is read.
LabelledImages read_vectors(SourceFolder& folder, Split split);

/// y with these of its columns alone. Throws UsageError for other data sets.
Dataset vector_targets(const Dataset& vectors, const std::vector<int64_t>& columns);

}  // namespace evariste
