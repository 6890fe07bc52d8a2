#include "tests/laplace/other_device.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/HPUHooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/library.h>

#include <cstring>
#include <mutex>

#include "core/error.h"
#include "laplace/cuda/recording.h"

namespace evariste {
namespace {

constexpr auto kOther = c10::DeviceType::HPU;

/// Addresses are moved to where nothing can be: reading one is a crash.
constexpr uintptr_t kHidden = uintptr_t{1} << 62;

void* hidden(void* at) {
  return at ? reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(at) ^ kHidden) : at;
}

void release(void* at) { c10::free_cpu(hidden(at)); }

class HiddenMemory : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    auto* at = hidden(bytes > 0 ? c10::alloc_cpu(bytes) : nullptr);
    return {at, at, &release, c10::Device(kOther, 0)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(hidden(to), hidden(const_cast<void*>(from)), bytes);
  }
};

HiddenMemory& memory() {
  static HiddenMemory one;
  return one;
}

/// Everything is done when it is asked for, so there is nothing to wait for.
struct Guard : c10::impl::NoOpDeviceGuardImpl<kOther> {
  c10::Device getDevice() const override { return {kOther, 0}; }
  c10::Device exchangeDevice(c10::Device) const override { return {kOther, 0}; }
  c10::Stream getStream(c10::Device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, {kOther, 0});
  }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
  void record(void**, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, c10::DeviceIndex) const noexcept override {}
};
C10_REGISTER_GUARD_IMPL(HPU, Guard);

/// One device, of which autograd asks for its stream.
struct OneDevice : at::HPUHooksInterface {
  explicit OneDevice(const at::HPUHooksArgs&) {}
  void init() const override {}
  bool hasHPU() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    static const auto unused = at::detail::createCPUGenerator();  // torch::manual_seed wants one
    return unused;
  }
};
const at::RegistererHPUHooksRegistry hooks(
    "HPUHooks", at::HPUHooksRegistry(), at::RegistererHPUHooksRegistry::DefaultCreator<OneDevice>);

/// The same memory as a tensor that the CPU can read.
Tensor seen(const Tensor& x) {
  if (x.device().is_cpu() || x.numel() == 0)
    return x.device().is_cpu() ? x : torch::empty(x.sizes(), x.scalar_type());
  return torch::from_blob(hidden(x.mutable_data_ptr()), x.sizes(), x.strides(),
                          torch::dtype(x.scalar_type()));
}

/// What was asked of the device while it was recorded, in order: what does it again, into the same
/// memory. As on a GPU a view is nothing to do, and so is memory.
using Recording = std::vector<std::function<void()>>;
thread_local Recording* recording = nullptr;

/// Operations that are part of one that is recorded.
struct Unrecorded {
  Unrecorded() { recording = nullptr; }
  ~Unrecorded() { recording = outer; }
  Recording* const outer = recording;
};

/// A tensor as it is now: sizes and strides of the same one may be changed in place later.
Tensor as_now(const Tensor& x) { return x.defined() ? at::alias(x) : x; }

void expect_unrecorded(const char* what) {
  if (recording) throw NumericalError(fmt::format("recorded work {}", what));
}

struct OtherRecorder : cuda::Recorder {
  std::function<void()> record(const std::function<void()>& work) override {
    auto& one = recordings.emplace_back(std::make_unique<Recording>());
    struct Recorded {
      explicit Recorded(Recording* list) { recording = list; }
      ~Recorded() { recording = nullptr; }
    } const recorded(one.get());
    work();
    return [list = one.get()] {
      for (const auto& again : *list) again();
    };
  }
  std::vector<std::unique_ptr<Recording>> recordings;
};

Tensor empty(c10::IntArrayRef size, std::optional<c10::ScalarType> type, std::optional<c10::Layout>,
             std::optional<c10::Device>, std::optional<bool>,
             std::optional<c10::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory(), c10::DispatchKeySet(c10::DispatchKey::HPU),
                                   c10::dtype_or_default(type), format);
}

Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride,
                     std::optional<c10::ScalarType> type, std::optional<c10::Layout>,
                     std::optional<c10::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory(),
                                           c10::DispatchKeySet(c10::DispatchKey::HPU),
                                           c10::dtype_or_default(type));
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  if (from.device() != to.device()) expect_unrecorded("copies to or from the device");
  const auto copy = [](const Tensor& a, const Tensor& b) {
    if (b.numel() > 0) seen(b).copy_(seen(a));
  };
  copy(from, to);
  if (recording) recording->push_back([copy, a = as_now(from), b = as_now(to)] { copy(a, b); });
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  if (from.sizes() != to.sizes()) {
    const auto fresh = torch::empty(from.sizes(), to.options());
    auto* impl = to.unsafeGetTensorImpl();
    impl->set_storage_keep_dtype(fresh.storage());
    impl->set_storage_offset(0);
    impl->set_sizes_contiguous(from.sizes());
  }
  return copy_from(from, to, false);
}

c10::Scalar scalar_of(const Tensor& x) {
  expect_unrecorded("waits for a number of the device");
  return seen(x).item();
}

Tensor here(const Tensor& x) { return x.to(c10::Device(kOther, 0)); }

/// Tensors on the device that `compute` makes on the CPU.
template <class Compute>
std::vector<Tensor> computed(const Compute& compute) {
  std::vector<Tensor> out;
  {
    const Unrecorded inside;
    for (const auto& one : compute()) out.push_back(one.defined() ? here(one) : one);
  }
  std::vector<Tensor> kept;
  for (const auto& one : out) kept.push_back(as_now(one));
  if (recording)
    recording->push_back([out = kept, compute] {
      const auto again = compute();
      for (size_t i = 0; i < out.size(); ++i)
        if (out[i].defined()) seen(out[i]).copy_(again[i]);
    });
  return out;
}

Tensor convolve(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                c10::IntArrayRef stride, c10::IntArrayRef padding, c10::IntArrayRef dilation,
                bool transposed, c10::IntArrayRef output_padding, int64_t groups) {
  return computed([=, x = as_now(x), weight = as_now(weight), stride = stride.vec(),
                   padding = padding.vec(), dilation = dilation.vec(),
                   output_padding = output_padding.vec()] {
    return std::vector<Tensor>{
        at::convolution(seen(x), seen(weight),
                        bias && bias->defined() ? std::optional<Tensor>(seen(*bias)) : std::nullopt,
                        stride, padding, dilation, transposed, output_padding, groups)};
  })[0];
}

std::tuple<Tensor, Tensor, Tensor> convolve_backward(const Tensor& g, const Tensor& x,
                                                     const Tensor& weight, c10::IntArrayRef stride,
                                                     c10::IntArrayRef padding,
                                                     c10::IntArrayRef dilation, bool transposed,
                                                     c10::IntArrayRef output_padding,
                                                     int64_t groups, std::array<bool, 3> wanted) {
  const auto out = computed([=, g = as_now(g), x = as_now(x), weight = as_now(weight),
                             stride = stride.vec(), padding = padding.vec(),
                             dilation = dilation.vec(), output_padding = output_padding.vec()] {
    const auto [dx, dw, db] =
        at::convolution_backward(seen(g), seen(x), seen(weight), std::nullopt, stride, padding,
                                 dilation, transposed, output_padding, groups, wanted);
    return std::vector<Tensor>{dx, dw, db};
  });
  return {out[0], out[1], out[2]};
}

/// Numbers (tensors without dimensions) of the CPU may go with the others, as with CUDA.
void expect_one_device(const c10::OperatorHandle& op, const torch::jit::Stack& stack) {
  bool cpu = false, other = false;
  const auto look = [&](const Tensor& x) {
    if (!x.defined()) return;
    cpu = cpu || (x.device().is_cpu() && x.dim() > 0);
    other = other || !x.device().is_cpu();
  };
  const auto count = op.schema().arguments().size();
  for (auto at = stack.end() - static_cast<std::ptrdiff_t>(count); at != stack.end(); ++at) {
    if (at->isTensor()) look(at->toTensor());
    if (at->isTensorList())
      for (const auto& x : at->toTensorVector()) look(x);
    if (at->isOptionalTensorList())
      for (const auto& x : at->toOptionalTensorVector())
        if (x) look(*x);
  }
  TORCH_CHECK(!cpu || !other,
              "Expected all tensors to be on the same device: ", op.schema().operator_name());
}

c10::IValue as_now(const c10::IValue& value) {
  if (value.isTensor()) return as_now(value.toTensor());
  if (!value.isTensorList()) return value;
  std::vector<Tensor> out;
  for (const auto& x : value.toTensorVector()) out.push_back(as_now(x));
  return out;
}

std::vector<Tensor> last_tensors(const torch::jit::Stack& stack, size_t count) {
  std::vector<Tensor> out;
  for (auto at = stack.end() - static_cast<std::ptrdiff_t>(count); at != stack.end(); ++at) {
    if (at->isTensor()) out.push_back(as_now(at->toTensor()));
    if (at->isTensorList())
      for (const auto& x : at->toTensorVector()) out.push_back(as_now(x));
  }
  return out;
}

void on_the_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  expect_one_device(op, *stack);
  if (!recording) return at::native::cpu_fallback(op, stack);
  const auto arguments = op.schema().arguments().size(), returns = op.schema().returns().size();
  torch::jit::Stack given;
  for (auto at = stack->end() - static_cast<std::ptrdiff_t>(arguments); at != stack->end(); ++at)
    given.push_back(as_now(*at));
  {
    const Unrecorded inside;
    at::native::cpu_fallback(op, stack);
  }
  recording->push_back([op, given, returns, out = last_tensors(*stack, returns)] {
    auto again = given;
    at::native::cpu_fallback(op, &again);
    const auto fresh = last_tensors(again, returns);
    for (size_t i = 0; i < out.size(); ++i)  // those of in-place operations are where they were
      if (out[i].defined() && out[i].numel() > 0 && !fresh[i].is_alias_of(out[i]))
        seen(out[i]).copy_(seen(fresh[i]));
  });
}

TORCH_LIBRARY_IMPL(_, HPU, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_the_cpu>());
}

TORCH_LIBRARY_IMPL(aten, HPU, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &at::native::view);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("unfold", &at::native::unfold);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("_local_scalar_dense", &scalar_of);
  m.impl("convolution_overrideable", &convolve);
  m.impl("convolution_backward_overrideable", &convolve_backward);
}

}  // namespace

torch::Device other_device() {
  static std::once_flag once;
  std::call_once(once, [] {
    cuda::set_recorder(kOther, [](torch::Device) { return std::make_unique<OtherRecorder>(); });
  });
  return {kOther, 0};
}

}  // namespace evariste
