#include "laplace/curvature.h"

namespace evariste {

double Curvature::log_det_ratio(const Precisions& precisions) const {
  double sum = 0;
  for (const auto& block : log_det(precisions)) sum += block.ratio;
  return sum;
}

double Curvature::inverse_norm(const std::vector<Tensor>& g, const Precisions& precisions) const {
  const auto solved = solve(g, precisions);
  double sum = 0;
  for (size_t m = 0; m < g.size(); ++m)
    sum += (g[m] * solved[m]).sum(torch::kFloat64).item<double>();
  return sum;
}

Tensor normal_draws(const Tensor& like, const Stream& stream) {
  auto z = torch::empty(like.sizes(), torch::kFloat64);
  Draws draws(stream);
  auto* out = z.data_ptr<double>();
  for (int64_t i = 0; i < z.numel(); ++i) out[i] = draws.normal();
  return z.to(like.device());
}

}  // namespace evariste
