#include "nn/degree.h"

#include <cmath>

#include "core/error.h"
#include "nn/field_basis.h"

namespace evariste {
namespace {

/// psi(h) of all irreps at the nodes, flattened one behind the other, [nodes, sum d^2].
Matrix values_of(const std::vector<Irrep>& irreps, const std::vector<Element>& nodes) {
  Eigen::Index width = 0;
  for (const auto& irrep : irreps) width += irrep.size * irrep.size;
  Matrix out(static_cast<Eigen::Index>(nodes.size()), width);
  for (size_t q = 0; q < nodes.size(); ++q) {
    Eigen::Index at = 0;
    for (const auto& irrep : irreps) {
      const Matrix psi = irrep.at(nodes[q]);
      for (Eigen::Index i = 0; i < irrep.size; ++i)
        for (Eigen::Index j = 0; j < irrep.size; ++j)
          out(static_cast<Eigen::Index>(q), at++) = psi(i, j);
    }
  }
  return out;
}

}  // namespace

Degree::Degree(GroupPtr group, int band, int resolved, Tensor theta)
    : theta_(std::move(theta)), density_(std::move(group), band, resolved) {
  const auto irreps = density_.group().irreps(resolved);
  // The trivial coefficient does not matter: it is not there.
  const auto& matrix = density_.to_logits();
  to_logits_ = as_tensor(matrix.rightCols(matrix.cols() - 1));
  at_identity_ = as_tensor(density_.at_identity().tail(matrix.cols() - 1)).flatten();
  weights_ = as_tensor(density_.nodes().weights).flatten();
  irreps_ = as_tensor(values_of(irreps, density_.nodes().nodes)) * weights_.unsqueeze(1);
  for (const auto& irrep : irreps) sizes_.push_back(irrep.size);
  if (theta_.dim() != 1 || theta_.numel() != to_logits_.size(1))
    throw UsageError(fmt::format("coefficients of a degree: expected {}, found {}",
                                 to_logits_.size(1), theta_.numel()));
}

int64_t Degree::coefficients(const GroupPtr& group, int band) {
  int64_t count = 0;
  for (const auto& irrep :
       group->irreps(group->is_finite() ? std::min(band, group->largest_band()) : band))
    if (!irrep.is_trivial) count += irrep.size * irrep.size / irrep.endomorphisms;
  return count;
}

Tensor Degree::peaked(const GroupPtr& group, int band, double height) {
  const auto all = as_tensor(GroupDensity(group, band).at_identity()).flatten();
  const auto at_identity = all.narrow(0, 1, all.numel() - 1);
  return height == 0 ? torch::zeros_like(at_identity)
                     : height / at_identity.square().sum() * at_identity;
}

Tensor Degree::logits() const {
  return to_logits_.to(theta_.device()).mv(theta_.to(torch::kFloat64));
}

Tensor Degree::log_density() const {
  const auto l = logits();
  return l - (l + weights_.to(l.device()).log()).logsumexp(0);
}

std::vector<Tensor> Degree::expectations() const {
  const auto all = log_density().exp().matmul(irreps_.to(theta_.device()));  // [sum d^2]
  std::vector<Tensor> out;
  int64_t at = 0;
  for (const auto d : sizes_) {
    out.push_back(all.narrow(0, at, d * d).view({d, d}));
    at += d * d;
  }
  return out;
}

Tensor Degree::divergence() const {
  const auto log = log_density();
  return (weights_.to(log.device()) * log.exp() * log).sum();
}

Tensor Degree::divergence_from(const Degree& before) const {
  if (density_.group().name() != before.density_.group().name())
    throw UsageError(fmt::format("densities on {} and on {} cannot be compared",
                                 density_.group().name(), before.density_.group().name()));
  // At one set of nodes: those of this one.
  const auto other =
      fourier_matrix(density_.group(), before.density_.band(), density_.nodes().nodes);
  const auto theta = before.theta_.detach().to(torch::kFloat64);
  const auto l = as_tensor(other.rightCols(other.cols() - 1)).to(theta.device()).mv(theta);
  const auto w = weights_.to(theta.device());
  const auto log = log_density();
  return (w * log.exp() * (log - (l - (l + w.log()).logsumexp(0)))).sum();
}

Tensor Degree::alignment() const {
  const auto at_identity = at_identity_.to(theta_.device()).dot(theta_.to(torch::kFloat64));
  return (logits().max() - at_identity).clamp_min(0);
}

std::vector<const Degree*> degrees_of(const torch::nn::Module& network) {
  std::vector<const Degree*> out;
  for (const auto& module : network.modules(/*include_self=*/false))
    if (const auto* layer = dynamic_cast<const HasDegree*>(module.get()))
      if (const auto* degree = layer->degree(); degree && degree->theta().requires_grad())
        out.push_back(degree);
  return out;
}

Tensor DegreePenalty::operator()(const std::vector<const Degree*>& degrees) const {
  auto sum = torch::zeros({}, torch::kFloat64);
  const auto n = static_cast<double>(degrees.size());
  for (size_t i = 0; i < degrees.size(); ++i) {
    const auto& degree = *degrees[i];
    sum = sum.to(degree.theta().device()) + alignment * degree.alignment();
    const bool begins =
        i == 0 || degrees[i - 1]->density().group().name() != degree.density().group().name();
    sum = sum + (begins ? uniform / n * degree.divergence()
                        : previous / n * degree.divergence_from(*degrees[i - 1]));
  }
  return sum;
}

}  // namespace evariste
