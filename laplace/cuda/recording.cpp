#include "laplace/cuda/recording.h"

#include <map>

#ifdef EVARISTE_CUDA
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <atomic>

#include "core/error.h"
#endif

namespace evariste::cuda {
namespace {

thread_local bool records = false;

using MakeRecorder = std::function<std::unique_ptr<Recorder>(torch::Device)>;

#ifdef EVARISTE_CUDA

using c10::cuda::CUDACachingAllocator::beginAllocateToPool;
using c10::cuda::CUDACachingAllocator::endAllocateToPool;
using c10::cuda::CUDACachingAllocator::releasePool;

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw NumericalError(fmt::format("CUDA graph: {}: {}", what, cudaGetErrorString(error)));
}

/// Memory that recordings keep; torch counts those of its own graphs from one.
c10::MempoolId_t fresh_pool() {
  static std::atomic<c10::CaptureId_t> next{c10::CaptureId_t{1} << 32};
  return {next++, 0};
}

/// CUDA captures on no stream that others may use, so all of the steps are done on one of its own.
class Graphs : public Recorder {
 public:
  explicit Graphs(torch::Device device)
      : guard_(settled(device)), stream_(guard_.current_stream()), pool_(fresh_pool()) {}

  ~Graphs() override {
    cudaStreamSynchronize(stream_.stream());  // the streams that follow need not wait for it
    for (auto graph : recorded_) cudaGraphExecDestroy(graph);
    for (size_t i = 0; i < pool_uses_; ++i) releasePool(stream_.device_index(), pool_);
  }
  Graphs(const Graphs&) = delete;
  Graphs& operator=(const Graphs&) = delete;

  std::function<void()> record(const std::function<void()>& work) override {
    recorded_.push_back(capture(work));
    const auto again = [graph = recorded_.back(), stream = stream_.stream()] {
      check(cudaGraphLaunch(graph, stream), "launch");
    };
    again();  // a capture does nothing yet
    return again;
  }

 private:
  /// A stream behind all that the current one was asked for.
  static c10::cuda::CUDAStream settled(torch::Device device) {
    const auto index = device.has_index() ? device.index() : c10::cuda::current_device();
    check(cudaStreamSynchronize(c10::cuda::getCurrentCUDAStream(index).stream()), "waiting");
    return c10::cuda::getStreamFromPool(/*isHighPriority=*/false, index);
  }

  cudaGraphExec_t capture(const std::function<void()>& work) {
    const auto device = stream_.device_index();
    const auto raw = stream_.stream();
    cudaGraph_t graph = nullptr;
    beginAllocateToPool(device, pool_, [raw](cudaStream_t of) { return of == raw; });
    ++pool_uses_;
    try {
      check(cudaStreamBeginCapture(raw, cudaStreamCaptureModeThreadLocal), "begin");
      work();
    } catch (...) {
      cudaStreamEndCapture(raw, &graph);
      if (graph) cudaGraphDestroy(graph);
      endAllocateToPool(device, pool_);
      throw;
    }
    const auto ended = cudaStreamEndCapture(raw, &graph);
    endAllocateToPool(device, pool_);
    check(ended, "a step waits for the device or copies to it");
    cudaGraphExec_t out = nullptr;
    const auto made = cudaGraphInstantiate(&out, graph, 0);
    cudaGraphDestroy(graph);
    check(made, "instantiate");
    return out;
  }

  c10::cuda::CUDAStreamGuard guard_;
  c10::cuda::CUDAStream stream_;
  c10::MempoolId_t pool_;
  size_t pool_uses_ = 0;
  std::vector<cudaGraphExec_t> recorded_;
};

#endif

std::map<torch::DeviceType, MakeRecorder>& recorders() {
  static std::map<torch::DeviceType, MakeRecorder> list = {
#ifdef EVARISTE_CUDA
      {torch::kCUDA, [](torch::Device device) { return std::make_unique<Graphs>(device); }},
#endif
  };
  return list;
}

}  // namespace

void set_recorder(torch::DeviceType type, MakeRecorder make) {
  recorders()[type] = std::move(make);
}

RecordedSteps::RecordedSteps(torch::Device device) {
  if (const auto found = recorders().find(device.type()); found != recorders().end())
    recorder_ = found->second(device);
}

void RecordedSteps::run(size_t index, const std::function<void()>& work) {
  if (steps_.size() <= index) steps_.resize(index + 1);
  auto& step = steps_[index];
  if (step.again) {
    step.again();
  } else if (recorder_ && step.was_done) {
    struct Mark {
      Mark() { records = true; }
      ~Mark() { records = false; }
    } const mark;
    step.again = recorder_->record(work);
  } else {
    work();
    step.was_done = true;
  }
}

bool RecordedSteps::is_recording() { return records; }

}  // namespace evariste::cuda
