// Where tensors live and the engine computes.
#pragma once

#include <string>

#include "laplace/shape.h"

namespace evariste {

/// "cpu", "cuda" or "cuda:1"; of torchrun's processes on a machine each takes a GPU of its own
/// where "cuda" names none. Throws UsageError for other names and where there is no such device. To
/// be called before anything else asks torch for a GPU: torch's CUDA library is loaded here, so
/// that what runs on the CPU does without it. Products are float32 from then on, not TF32.
torch::Device open_device(const std::string& name);

/// Whether open_device("cuda") would find a device; loads the library as it does.
bool has_cuda();

}  // namespace evariste
