#include "tests/laplace/brute_force.h"

#include <torch/csrc/autograd/autograd.h>

namespace evariste {

Tensor autograd_jacobian(const Layer& network, const Tensor& x, const Blocks& blocks) {
  torch::AutoGradMode enabled(true);
  std::vector<Tensor> leaves;
  for (const auto* block : blocks) leaves.push_back(block->weight());
  const auto f = network.forward(x);
  std::vector<Tensor> rows;
  for (int64_t n = 0; n < f.size(0); ++n) {
    for (int64_t c = 0; c < f.size(1); ++c) {
      const auto gradients = torch::autograd::grad({f[n][c]}, leaves, {}, true);
      std::vector<Tensor> parts;
      for (size_t m = 0; m < blocks.size(); ++m)
        parts.push_back(blocks[m]->to_matrix(gradients[m]).flatten());
      rows.push_back(torch::cat(parts));
    }
  }
  return torch::stack(rows).view({f.size(0), f.size(1), -1});
}

Tensor dense_ggn(const Layer& network, const Likelihood& likelihood, const Tensor& x,
                 const Blocks& blocks) {
  const auto jacobian = autograd_jacobian(network, x, blocks);
  torch::NoGradGuard no_grad;
  const auto lambda = likelihood.hessian(network.forward(x));
  return jacobian.transpose(1, 2).matmul(lambda).matmul(jacobian).sum(0);
}

Tensor part_of(const Tensor& hessian, const Blocks& blocks, size_t block) {
  int64_t begin = 0;
  for (size_t m = 0; m < block; ++m) begin += blocks[m]->parameters();
  const auto count = blocks[block]->parameters();
  return hessian.narrow(0, begin, count).narrow(1, begin, count);
}

Tensor dense_kron(const KronFactor& factor) {
  if (factor.spectrum.defined()) {
    std::vector<Tensor> groups;
    for (int64_t q = 0; q < factor.spectrum.size(0); ++q) {
      const auto basis = torch::kron(factor.b.basis[q], factor.a.basis[q]).to(torch::kFloat64);
      groups.push_back((basis * factor.spectrum[q].flatten()).mm(basis.t()));
    }
    return torch::block_diag(groups);
  }
  const auto a = factor.a.dense(), b = factor.b.dense();
  std::vector<Tensor> groups;
  for (int64_t q = 0; q < a.size(0); ++q)
    groups.push_back(factor.correction * torch::kron(b[q], a[q]));
  return torch::block_diag(groups);
}

Tensor dense_precision(const Curvature& curvature, const Precisions& precisions) {
  std::vector<Tensor> parts, prior;
  for (size_t m = 0; m < curvature.blocks().size(); ++m) {
    prior.push_back(precisions[m].expand(curvature.blocks()[m]->value().sizes()).flatten());
    if (const auto* kron = dynamic_cast<const KronCurvature*>(&curvature))
      parts.push_back(dense_kron(kron->factors()[m]));
    if (const auto* diagonal = dynamic_cast<const DiagonalCurvature*>(&curvature))
      parts.push_back(torch::diag(diagonal->diagonals()[m].flatten()));
  }
  if (const auto* each = dynamic_cast<const BlockCurvature*>(&curvature))
    for (size_t m = 0; m < each->blocks().size(); ++m) parts.push_back(each->hessian(m));
  const auto* dense = dynamic_cast<const DenseCurvature*>(&curvature);
  const auto h = dense ? dense->hessian() : torch::block_diag(parts);
  return curvature.scale() * h + torch::diag(torch::cat(prior));
}

double log_det_ratio(const Tensor& hessian, const Tensor& delta) {
  const auto p = hessian + torch::diag(delta.expand({hessian.size(0)}));
  return (torch::logdet(p) - delta.expand({hessian.size(0)}).log().sum()).item<double>();
}

Tensor ramp(at::IntArrayRef shape, double s) {
  const auto count = c10::multiply_integers(shape);
  return (0.7 * torch::arange(count, torch::kFloat64) + s).sin().view(shape);
}

Priors layerwise_priors(const Curvature& curvature, const std::vector<double>& precisions) {
  Priors priors;
  for (size_t m = 0; m < curvature.blocks().size(); ++m)
    priors.emplace_back(IsotropicGaussian(precisions[m]));
  return priors;
}

Priors layerwise_priors(const Curvature& curvature, double precision) {
  return layerwise_priors(curvature, std::vector<double>(curvature.blocks().size(), precision));
}

Tensor random_labels(int64_t n, int64_t classes, uint64_t seed) {
  auto y = torch::empty({n}, torch::kInt64);
  Draws draws{Stream(seed)};
  for (int64_t i = 0; i < n; ++i)
    y[i] = static_cast<int64_t>(draws.below(static_cast<uint64_t>(classes)));
  return y;
}

void set_parameters(Network& network, const std::vector<Tensor>& values) {
  torch::NoGradGuard no_grad;
  network.to(torch::kFloat64);
  const auto parameters = network.parameters();
  TORCH_CHECK(parameters.size() == values.size());
  for (size_t i = 0; i < values.size(); ++i)
    parameters[i].copy_(values[i].reshape(parameters[i].sizes()));
}

CurvatureOptions options_of(Structure structure) {
  CurvatureOptions options;
  options.structure = structure;
  return options;
}

}  // namespace evariste
