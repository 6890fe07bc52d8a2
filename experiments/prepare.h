// What the flags that all programs share mean for torch.
#pragma once

#include <torch/types.h>

#include "io/command_line.h"

namespace evariste {

/// --threads, --deterministic, and the device of --device.
torch::Device prepare_torch(const CommandLine& line);

}  // namespace evariste
