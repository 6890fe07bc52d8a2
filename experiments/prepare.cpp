#include "experiments/prepare.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include "laplace/device.h"

namespace evariste {

torch::Device prepare_torch(const CommandLine& line) {
  const auto device = open_device(line.device);
  if (line.threads > 0) at::set_num_threads(line.threads);
  auto& context = at::globalContext();
  if (line.deterministic) context.setDeterministicAlgorithms(true, false);
  context.setAllowTF32CuBLAS(false);
  context.setAllowTF32CuDNN(false);
  return device;
}

}  // namespace evariste
