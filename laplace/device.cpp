#include "laplace/device.h"

#include <ATen/Context.h>
#include <dlfcn.h>
#include <torch/cuda.h>

#include <cstdlib>
#include <regex>

#include "core/error.h"

namespace evariste {
namespace {

/// Why there is none; empty where torch can use a GPU.
const std::string& cuda_refusal() {
  static const std::string refusal = [] {
    if (!dlopen("libcuda.so.1", RTLD_LAZY)) return std::string("there is no NVIDIA driver");
    // Found as the libraries that the program itself is linked with are.
    if (!dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL))
      return fmt::format("torch's CUDA library cannot be loaded ({})", dlerror());
    if (!torch::cuda::is_available()) return std::string("torch finds no GPU that it can use");
    return std::string();
  }();
  return refusal;
}

}  // namespace

bool has_cuda() { return cuda_refusal().empty(); }

torch::Device open_device(const std::string& name) {
  static const std::regex kCuda("cuda(:([0-9]{1,3}))?");
  std::smatch match;
  if (name == "cpu") return torch::kCPU;
  if (!std::regex_match(name, match, kCuda))
    throw UsageError(fmt::format("device {}: expected cpu, cuda or cuda:INDEX", name));
  if (!has_cuda()) throw UsageError(fmt::format("device {}: {}; use cpu", name, cuda_refusal()));
  at::globalContext().setAllowTF32CuBLAS(false);
  at::globalContext().setAllowTF32CuDNN(false);
  const auto count = static_cast<int>(torch::cuda::device_count());
  const char* local = std::getenv("LOCAL_RANK");  // of torchrun
  const auto index = match[2].matched ? std::stoi(match[2]) : local ? std::atoi(local) % count : 0;
  if (index >= count)
    throw UsageError(fmt::format("device {}: there {} {} GPU{}, the first is cuda:0", name,
                                 count == 1 ? "is" : "are", count, count == 1 ? "" : "s"));
  return torch::Device(torch::kCUDA, static_cast<torch::DeviceIndex>(index));
}

}  // namespace evariste
