// Volumes of MedMNIST v2 (Yang et al. 2023, Scientific Data): 28^3 voxels, one .npz file for a set.
//
// Arrays train_images, val_images, test_images [N, 28, 28, 28] uint8 and train_labels ... [N, 1].
// The official validation samples are left out of both splits.
#pragma once

#include "data/labelled_images.h"
#include "data/source_folder.h"

namespace evariste {

/// -> x [N, 1, 28, 28, 28] uint8, y [N] int64 of `file` in `folder`.
LabelledImages read_medmnist_split(SourceFolder& folder, const std::string& file, Split split);

}  // namespace evariste
