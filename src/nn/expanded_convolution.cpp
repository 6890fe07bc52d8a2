#include "nn/expanded_convolution.h"

namespace evariste {

Tensor ExpandedConvBlock::phi(const Tensor& x) const {
  const ConvBlock all(kernel(value().detach()), geometry_);
  return features(all.phi(enter(x)));
}

Tensor ExpandedConvBlock::apply(const Tensor& matrix, const Tensor& x) const {
  const auto w = kernel(matrix);
  const ConvBlock all(w, geometry_);
  return leave(all.apply(w, enter(x)));
}

Tensor ExpandedConvBlock::backward_data(const Tensor& g, const Tensor& x) const {
  const ConvBlock all(kernel(value()), geometry_);
  return leave(all.backward_data(enter(g), enter(x)));
}

Tensor ExpandedConvBlock::gradient(const Tensor& x, const Tensor& g) const {
  const ConvBlock all(kernel(value()), geometry_);
  return pull_back(all.from_matrix(all.gradient(enter(x), enter(g))));
}

Tensor ExpandedConvBlock::input_gram(const Tensor& x) const {
  const ConvBlock all(kernel(value()), geometry_);
  return feature_gram(all.input_gram(enter(x)));
}

double ExpandedConvBlock::input_gram_flops(const Tensor& x) const {
  const ConvBlock all(kernel(value()), geometry_);
  return all.input_gram_flops(enter(x));
}

}  // namespace evariste
