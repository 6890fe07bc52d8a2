// What every image format is read into.
#pragma once

#include <torch/types.h>

namespace evariste {

enum class Split { Train, Test };

struct LabelledImages {
  torch::Tensor x;  ///< [N, C, H, W] uint8
  torch::Tensor y;  ///< [N] int64
};

}  // namespace evariste
