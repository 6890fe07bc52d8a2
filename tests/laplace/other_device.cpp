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
  if (to.numel() > 0) seen(to).copy_(seen(from));
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

c10::Scalar scalar_of(const Tensor& x) { return seen(x).item(); }

Tensor here(const Tensor& x) { return x.to(c10::Device(kOther, 0)); }

Tensor convolve(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                c10::IntArrayRef stride, c10::IntArrayRef padding, c10::IntArrayRef dilation,
                bool transposed, c10::IntArrayRef output_padding, int64_t groups) {
  return here(
      at::convolution(seen(x), seen(weight),
                      bias && bias->defined() ? std::optional<Tensor>(seen(*bias)) : std::nullopt,
                      stride, padding, dilation, transposed, output_padding, groups));
}

std::tuple<Tensor, Tensor, Tensor> convolve_backward(const Tensor& g, const Tensor& x,
                                                     const Tensor& weight, c10::IntArrayRef stride,
                                                     c10::IntArrayRef padding,
                                                     c10::IntArrayRef dilation, bool transposed,
                                                     c10::IntArrayRef output_padding,
                                                     int64_t groups, std::array<bool, 3> wanted) {
  const auto [dx, dw, db] =
      at::convolution_backward(seen(g), seen(x), seen(weight), std::nullopt, stride, padding,
                               dilation, transposed, output_padding, groups, wanted);
  const auto back = [](const Tensor& one) { return one.defined() ? here(one) : one; };
  return {back(dx), back(dw), back(db)};
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

void on_the_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  expect_one_device(op, *stack);
  at::native::cpu_fallback(op, stack);
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

torch::Device other_device() { return {kOther, 0}; }

}  // namespace evariste
