#include "laplace/curvature.h"

namespace evariste {

double Curvature::log_det_ratio(const Precisions& precisions) const {
  double sum = 0;
  for (const auto& block : log_det(precisions)) sum += block.ratio;
  return sum;
}

Tensor normal_draws(const Tensor& like, const Stream& stream) {
  auto z = torch::empty(like.sizes(), torch::kFloat64);
  Draws draws(stream);
  auto* out = z.data_ptr<double>();
  for (int64_t i = 0; i < z.numel(); ++i) out[i] = draws.normal();
  return z;
}

}  // namespace evariste
