#include "experiments/prepare.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include "core/error.h"
#include "laplace/device.h"

namespace evariste {

torch::Device prepare_torch(const CommandLine& line) {
  const auto device = [&] {
    try {
      return open_device(line.device);
    } catch (const UsageError& error) {
      throw UsageError(fmt::format("--{}", error.what()));
    }
  }();
  if (line.threads > 0) at::set_num_threads(line.threads);
  if (line.deterministic) at::globalContext().setDeterministicAlgorithms(true, false);
  return device;
}

}  // namespace evariste
