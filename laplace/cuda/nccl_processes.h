// Exchanges between GPUs by the wheel's NCCL, in a library of its own that join_processes loads.
//
// NCCL does not notice that another process has ended and would wait for it. So each exchange
// begins with one of a number over TCP, which does, and small tensors of the CPU go there whole.
#pragma once

#include <torch/csrc/distributed/c10d/Store.hpp>

#include "laplace/processes.h"

namespace evariste {

inline constexpr const char* kNcclLibrary = "libevariste_nccl.so";
inline constexpr const char* kNcclFunction = "evariste_with_nccl";

/// `tcp` with NCCL for tensors of the GPU `device`. Takes `tcp`, gives what the caller owns; throws
/// ProcessLost where NCCL cannot connect them.
using NcclFunction = Processes*(Processes* tcp, c10d::Store* store, int device);

}  // namespace evariste
