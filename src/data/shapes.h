// Solids on a grid of voxels, drawn by their distance functions: volumes that need no files.
//
// Eight kinds, each of a size, proportions and place of its own: cube, tetrahedron, cylinder, cone,
// ring, ellipsoid, and two screws that are mirror images of each other, so that rotations keep the
// label and reflections do not.
#pragma once

#include "core/stream.h"
#include "data/dataset.h"

namespace evariste {

constexpr int64_t kShapeKinds = 8;
inline const Normalisation kShapesNormalisation = {{0.0712}, {0.1679}};

/// Upright solids [N, 1, 16, 16, 16] uint8, 6000 for training and 2000 for tests. Nothing is read.
LabelledImages read_shapes(SourceFolder& folder, Split split);

/// The same solids, each turned (drawn anew, not interpolated) by an element of `group` ("SO(3)",
/// "O", "O(3)" ...) from stream.split("pose").split(index). Throws UsageError for other data sets.
Dataset posed_shapes(const Dataset& shapes, const std::string& group, const Stream& stream);

}  // namespace evariste
