#include "laplace/shape.h"

#include "core/error.h"

namespace evariste {

std::string shape_text(at::IntArrayRef shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

void expect_shape(const Tensor& tensor, std::string_view what,
                  std::initializer_list<int64_t> expected) {
  bool agrees = tensor.dim() == static_cast<int64_t>(expected.size());
  for (size_t i = 0; agrees && i < expected.size(); ++i) {
    const auto size = expected.begin()[i];
    agrees = size == -1 || size == tensor.size(static_cast<int64_t>(i));
  }
  if (!agrees)
    throw UsageError(fmt::format("{}: expected [{}], got {}", what, fmt::join(expected, ", "),
                                 shape_text(tensor.sizes())));
}

void expect_finite(const Tensor& tensor, std::string_view what) {
  if (!at::isfinite(tensor).all().item<bool>())
    throw NumericalError(fmt::format("{}: expected finite numbers, found {} NaN or infinite of {}",
                                     what, (~at::isfinite(tensor)).sum().item<int64_t>(),
                                     tensor.numel()));
}

}  // namespace evariste
