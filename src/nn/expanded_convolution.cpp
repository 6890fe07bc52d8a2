#include "nn/expanded_convolution.h"

#include "nn/transposed_convolution.h"

namespace evariste {

template <class Conv>
Tensor ExpandedBlock<Conv>::any_kernel() const {
  return torch::empty(kernel_sizes(), weight_.options().requires_grad(false));
}

template <class Conv>
Tensor ExpandedBlock<Conv>::phi(const Tensor& x) const {
  return features(Conv(any_kernel(), geometry_).phi(enter(x)));
}

template <class Conv>
Tensor ExpandedBlock<Conv>::apply(const Tensor& matrix, const Tensor& x) const {
  const auto w = kernel(matrix);
  return leave(Conv(w, geometry_).apply(w, enter(x)));
}

template <class Conv>
Tensor ExpandedBlock<Conv>::backward_data(const Tensor& g, const Tensor& x) const {
  return leave(Conv(kernel(value()), geometry_).backward_data(enter(g), enter(x)));
}

template <class Conv>
Tensor ExpandedBlock<Conv>::gradient(const Tensor& x, const Tensor& g) const {
  const Conv all(any_kernel(), geometry_);
  return pull_back(all.from_matrix(all.gradient(enter(x), enter(g))));
}

template <class Conv>
Tensor ExpandedBlock<Conv>::input_gram(const Tensor& x) const {
  return feature_gram(Conv(any_kernel(), geometry_).input_gram(enter(x)));
}

template <class Conv>
double ExpandedBlock<Conv>::input_gram_flops(const Tensor& x) const {
  return Conv(any_kernel(), geometry_).input_gram_flops(enter(x));
}

template class ExpandedBlock<ConvBlock>;
template class ExpandedBlock<VolumeConvBlock>;
template class ExpandedBlock<TransposedConvBlock<ConvBlock>>;
template class ExpandedBlock<TransposedConvBlock<VolumeConvBlock>>;

}  // namespace evariste
