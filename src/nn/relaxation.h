// Relaxed networks: every steerable convolution beside the kernels that it leaves out.
#pragma once

#include <map>
#include <string>

#include "nn/network.h"

namespace evariste {

/// What a block of a relaxed network is for.
struct RelaxedBlock {
  std::string layer;  ///< "3", "5.0": of the network before
  std::string
      irrep;  ///< that the group turns the block's kernels by; the trivial one: it keeps them
  bool is_kept = false;  ///< the strict layer's own
};

/// Puts in place of every steerable convolution whose kernels the group keeps a sum of it (pathway
/// 0) and of the convolutions with those kernels that the group turns by its other irreps, for
/// infinite groups up to frequency `band`, with weights of 0. The network stays the same function,
/// but has blocks by which each layer could become less equivariant: what entry_tests (evidence.h)
/// asks for. Convolutions that have other pathways beside them, and repeated ones, stay as they
/// are. By the names of weights; empty where there is no such convolution.
std::map<std::string, RelaxedBlock> relax(Network& network, int band);

}  // namespace evariste
