// Processes over TCP by the wheel's c10d and gloo; without gloo's headers one process only. Where
// they have GPUs, tensors there go another way (cuda/nccl_processes.h).
#include "laplace/processes.h"

#ifdef EVARISTE_GLOO
#define USE_C10D_GLOO
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#endif

#include <dlfcn.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cstdlib>
#include <optional>

#include "core/error.h"
#include "laplace/cuda/nccl_processes.h"

namespace evariste {
namespace {

std::optional<std::string> variable(const char* name) {
  const char* value = std::getenv(name);
  return value && *value ? std::optional<std::string>(value) : std::nullopt;
}

int64_t integer(const std::string& name, const std::string& text, int64_t least, int64_t most) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < least || value > most)
    throw UsageError(
        fmt::format("environment variable {}: expected an integer from {} to {}, found \"{}\"",
                    name, least, most, text));
  return value;
}

struct Launch {
  int64_t rank = 0, size = 1;
  std::string address;
  int64_t port = 0;
};

Launch launch_of_environment() {
  Launch launch;
  const bool is_slurm = !variable("WORLD_SIZE") && variable("SLURM_STEP_NUM_TASKS");
  const std::string size_name = is_slurm ? "SLURM_STEP_NUM_TASKS" : "WORLD_SIZE";
  const std::string rank_name = is_slurm ? "SLURM_PROCID" : "RANK";
  const auto size = variable(size_name.c_str());
  if (!size) return launch;
  launch.size = integer(size_name, *size, 1, 100000);
  if (launch.size == 1) return launch;
  const auto needed = [&](const std::string& name) {
    const auto value = variable(name.c_str());
    if (!value)
      throw UsageError(fmt::format(
          "environment variable {} is not set, but {} says {} processes: start them with torchrun "
          "--no-python, or set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT for each",
          name, size_name, launch.size));
    return *value;
  };
  launch.rank = integer(rank_name, needed(rank_name), 0, launch.size - 1);
  launch.address = needed("MASTER_ADDR");
  launch.port = integer("MASTER_PORT", needed("MASTER_PORT"), 1, 65535);
  return launch;
}

#ifdef EVARISTE_GLOO

class GlooProcesses : public Processes {
 public:
  GlooProcesses(const Launch& launch, double timeout_seconds)
      : rank_(launch.rank), size_(launch.size) {
    const auto timeout = std::chrono::milliseconds(static_cast<int64_t>(1000 * timeout_seconds));
    guard("did not all start", [&] {
      c10d::TCPStoreOptions options;
      options.port = static_cast<uint16_t>(launch.port);
      // torchrun's agent serves the store itself; else the first process does.
      const auto agent = variable("TORCHELASTIC_USE_AGENT_STORE");
      options.isServer = launch.rank == 0 && !(agent && *agent == "True");
      options.numWorkers = static_cast<size_t>(launch.size);
      options.waitWorkers = false;
      options.timeout = timeout;
      store_ = c10::make_intrusive<c10d::TCPStore>(launch.address, options);
      // A process that dies closes its connections; one that is busy may take its time.
      const auto gloo = c10d::ProcessGroupGloo::Options::create_default(std::chrono::hours(24));
      group_ = c10::make_intrusive<c10d::ProcessGroupGloo>(store_, static_cast<int>(rank_),
                                                           static_cast<int>(size_), gloo);
    });
  }

  int64_t rank() const override { return rank_; }
  int64_t size() const override { return size_; }
  const c10::intrusive_ptr<c10d::Store>& store() const { return store_; }

  void sum(Tensor& tensor) const override {
    guard("do not all answer", [&] {
      std::vector<Tensor> tensors = {tensor.cpu()};
      group_->allreduce(tensors)->wait();
      if (!tensors[0].is_same(tensor)) tensor.copy_(tensors[0]);
    });
  }

  void broadcast(Tensor& tensor, int64_t from) const override {
    guard("do not all answer", [&] {
      std::vector<Tensor> tensors = {tensor.cpu()};
      c10d::BroadcastOptions options;
      options.rootRank = from;
      group_->broadcast(tensors, options)->wait();
      if (!tensors[0].is_same(tensor)) tensor.copy_(tensors[0]);
    });
  }

 private:
  template <class Exchange>
  void guard(std::string_view what, const Exchange& exchange) const {
    try {
      exchange();
    } catch (const std::exception& error) {
      std::string_view reason = error.what();
      reason = reason.substr(0, reason.find('\n'));
      if (reason.starts_with('[')) reason.remove_prefix(reason.find(']') + 1);  // a line of gloo
      throw ProcessLost(
          fmt::format("process {} of {}: the processes {}: one has ended or cannot be reached ({})",
                      rank_, size_, what, reason.substr(reason.find_first_not_of(' '))));
    }
  }

  int64_t rank_, size_;
  c10::intrusive_ptr<c10d::Store> store_;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> group_;
};

/// The same processes with NCCL for what lies on `device`, where all of them can.
std::unique_ptr<Processes> with_nccl(std::unique_ptr<GlooProcesses> tcp, torch::Device device) {
  char name[256] = {};
  gethostname(name, sizeof(name) - 1);
  const auto host = static_cast<int64_t>(std::hash<std::string>()(name) >> 1);
  if (!have_own_gpus(*tcp, host, device)) return tcp;
  // It is linked with torch's CUDA library, which a program on the CPU does without.
  auto* library = dlopen(kNcclLibrary, RTLD_NOW);
  auto* symbol = library ? dlsym(library, kNcclFunction) : nullptr;
  if (sum_over(*tcp, symbol ? 0.0 : 1.0) > 0) return tcp;
  const auto store = tcp->store();
  return std::unique_ptr<Processes>(
      reinterpret_cast<NcclFunction*>(symbol)(tcp.release(), store.get(), device.index()));
}

#endif

}  // namespace

int64_t launched_rank() { return launch_of_environment().rank; }

std::unique_ptr<Processes> join_processes(double timeout_seconds, torch::Device device) {
  const auto launch = launch_of_environment();
  if (launch.size == 1) return nullptr;
#ifdef EVARISTE_GLOO
  return with_nccl(std::make_unique<GlooProcesses>(launch, timeout_seconds), device);
#else
  (void)timeout_seconds, (void)device;
  throw UsageError(fmt::format(
      "{} processes were started, but this build has no gloo: install libgloo-dev and build again",
      launch.size));
#endif
}

}  // namespace evariste
