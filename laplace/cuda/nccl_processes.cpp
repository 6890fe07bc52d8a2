#include "laplace/cuda/nccl_processes.h"

#include <c10/cuda/CUDAGuard.h>
#define USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <fmt/format.h>

#include "core/error.h"

namespace evariste {
namespace {

class NcclProcesses : public Processes {
 public:
  NcclProcesses(std::unique_ptr<Processes> tcp, c10::intrusive_ptr<c10d::Store> store, int device)
      : tcp_(std::move(tcp)), device_(torch::kCUDA, static_cast<c10::DeviceIndex>(device)) {
    guard([&] {
      const c10::cuda::CUDAGuard on(device_);
      const auto options = c10d::ProcessGroupNCCL::Options::create();
      options->timeout = std::chrono::minutes(5);  // of an exchange that all have come to
      group_ = c10::make_intrusive<c10d::ProcessGroupNCCL>(
          std::move(store), static_cast<int>(rank()), static_cast<int>(size()), options);
      auto one = torch::ones({1}, torch::TensorOptions(torch::kFloat64).device(device_));
      sum(one);  // connects them
      if (one.item<double>() != static_cast<double>(size()))
        throw std::runtime_error("NCCL adds up wrongly");
    });
  }
  ~NcclProcesses() override {
    try {
      group_->shutdown();
    } catch (const std::exception&) {  // another has ended: nothing is left to say
    }
  }

  int64_t rank() const override { return tcp_->rank(); }
  int64_t size() const override { return tcp_->size(); }
  torch::Device device() const override { return device_; }

  void sum(Tensor& tensor) const override {
    if (tensor.device() != device_) return tcp_->sum(tensor);
    expect_all();
    guard([&] {
      const c10::cuda::CUDAGuard on(device_);
      std::vector<Tensor> tensors = {tensor};
      group_->allreduce(tensors)->wait();
    });
  }

  void broadcast(Tensor& tensor, int64_t from) const override {
    if (tensor.device() != device_) return tcp_->broadcast(tensor, from);
    expect_all();
    guard([&] {
      const c10::cuda::CUDAGuard on(device_);
      std::vector<Tensor> tensors = {tensor};
      c10d::BroadcastOptions options;
      options.rootRank = from;
      group_->broadcast(tensors, options)->wait();
    });
  }

 private:
  /// Throws ProcessLost unless all processes have come here.
  void expect_all() const {
    auto token = torch::zeros({1}, torch::kInt64);
    tcp_->sum(token);
  }

  template <class Exchange>
  void guard(const Exchange& exchange) const {
    try {
      exchange();
    } catch (const ProcessLost&) {
      throw;
    } catch (const std::exception& error) {
      std::string_view reason = error.what();
      throw ProcessLost(
          fmt::format("process {} of {}: NCCL cannot reach the others ({}); with --device cpu, or "
                      "two processes on one GPU, they exchange over TCP",
                      rank(), size(), reason.substr(0, reason.find('\n'))));
    }
  }

  std::unique_ptr<Processes> tcp_;
  torch::Device device_;
  c10::intrusive_ptr<c10d::ProcessGroupNCCL> group_;
};

}  // namespace

extern "C" Processes* evariste_with_nccl(Processes* tcp, c10d::Store* store, int device) {
  return new NcclProcesses(std::unique_ptr<Processes>(tcp),
                           c10::intrusive_ptr<c10d::Store>::reclaim_copy(store), device);
}

}  // namespace evariste
