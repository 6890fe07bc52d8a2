// What every image format is read into.
#pragma once

#include <torch/types.h>

namespace evariste {

enum class Split { Train, Test };

struct LabelledImages {
  torch::Tensor x;  ///< [N, C, H, W] uint8, or float32 where nothing is to be normalised
  torch::Tensor y;  ///< labels [N] int64, or targets [N, K] float32
};

}  // namespace evariste
