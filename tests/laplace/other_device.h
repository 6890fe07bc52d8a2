// A device that is not the CPU, on machines that have only one: what the engine does on a GPU but
// for the kernels, tested everywhere.
//
// It borrows the name of a backend that torch knows but does not bring along (HPU), with memory
// that the CPU cannot read. Every operation is torch's own for the CPU on copies; one that mixes
// tensors of both devices fails, as it does with CUDA, and so does reading through data_ptr.
//
// It records as CUDA's graphs do (cuda/recording.h): a recording repeats the operations, on the
// memory they had, and not the C++ that asked for them; one that waits for the device or copies to
// it fails.
#pragma once

#include "laplace/shape.h"

namespace evariste {

torch::Device other_device();

}  // namespace evariste
