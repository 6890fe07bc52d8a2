// Shape checks with a message that says what was expected and what came.
#pragma once

#include <torch/types.h>

#include <initializer_list>
#include <string>
#include <string_view>

namespace evariste {

using torch::Tensor;

/// "[64, 28, 28]"
std::string shape_text(at::IntArrayRef shape);

/// Throws UsageError ("images: expected [-1, 1, 28, 28], got [64, 28, 28]") unless the sizes agree;
/// -1 stands for any size.
void expect_shape(const Tensor& tensor, std::string_view what,
                  std::initializer_list<int64_t> expected);

/// Throws NumericalError naming `what` unless every entry is finite.
void expect_finite(const Tensor& tensor, std::string_view what);

}  // namespace evariste
