// Steps of work on a device that come again and again, recorded once: CUDA graphs.
//
// What a network of many small layers costs a GPU is starting kernels, a few microseconds each; a
// recording starts all of a step's with one call. It repeats what the device was asked for, not the
// C++ that asked: a step may neither wait for the device (item()), nor copy to or from it, nor
// depend on anything that changes on the host, and its tensors must stay where they are.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "laplace/shape.h"

namespace evariste::cuda {

/// What records on one kind of device. While it lives, this thread's work may be done aside from
/// the device's other work, behind what was asked for before.
class Recorder {
 public:
  virtual ~Recorder() = default;
  /// Does the work and returns what does it again. The tensors it made live as long as the
  /// recorder. Throws NumericalError where the work cannot be recorded.
  virtual std::function<void()> record(const std::function<void()>& work) = 0;
};

/// Recorders of a kind of device besides CUDA's own; `make` may be called on any thread.
void set_recorder(torch::DeviceType type,
                  std::function<std::unique_ptr<Recorder>(torch::Device)> make);

class RecordedSteps {
 public:
  /// Where nothing records on the device, as on the CPU, steps are done each time.
  explicit RecordedSteps(torch::Device device);

  /// Does step `index`: the first time as it is, so that what is made once is made outside; the
  /// second time recording it; from then on by the recording, without calling `work`. Steps are to
  /// be done in one order: they share memory.
  void run(size_t index, const std::function<void()>& work);

  /// Whether this thread records: what a layer keeps as long as its parameters stay the same is
  /// then still true, and may not be compared.
  static bool is_recording();

 private:
  struct Step {
    bool was_done = false;
    std::function<void()> again;
  };
  std::unique_ptr<Recorder> recorder_;
  std::vector<Step> steps_;
};

}  // namespace evariste::cuda
