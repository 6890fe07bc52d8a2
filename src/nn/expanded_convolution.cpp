#include "nn/expanded_convolution.h"

namespace evariste {

Tensor ExpandedConvBlock::any_kernel() const {
  return torch::empty(kernel_sizes(), weight_.options().requires_grad(false));
}

Tensor ExpandedConvBlock::phi(const Tensor& x) const {
  return features(ConvBlock(any_kernel(), geometry_).phi(enter(x)));
}

Tensor ExpandedConvBlock::apply(const Tensor& matrix, const Tensor& x) const {
  const auto w = kernel(matrix);
  return leave(ConvBlock(w, geometry_).apply(w, enter(x)));
}

Tensor ExpandedConvBlock::backward_data(const Tensor& g, const Tensor& x) const {
  return leave(ConvBlock(kernel(value()), geometry_).backward_data(enter(g), enter(x)));
}

Tensor ExpandedConvBlock::gradient(const Tensor& x, const Tensor& g) const {
  const ConvBlock all(any_kernel(), geometry_);
  return pull_back(all.from_matrix(all.gradient(enter(x), enter(g))));
}

Tensor ExpandedConvBlock::input_gram(const Tensor& x) const {
  return feature_gram(ConvBlock(any_kernel(), geometry_).input_gram(enter(x)));
}

double ExpandedConvBlock::input_gram_flops(const Tensor& x) const {
  return ConvBlock(any_kernel(), geometry_).input_gram_flops(enter(x));
}

}  // namespace evariste
