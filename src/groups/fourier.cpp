#include "groups/fourier.h"

#include "core/expect.h"

namespace evariste {

Matrix fourier_matrix(const Group& group, int band, const std::vector<Element>& elements) {
  std::vector<Vector> columns;
  const auto count = static_cast<Eigen::Index>(elements.size());
  for (const auto& irrep : group.irreps(band)) {
    const int copies = irrep.size / irrep.endomorphisms;
    const auto first = columns.size();
    columns.resize(first + static_cast<size_t>(copies * irrep.size), Vector(count));
    for (Eigen::Index e = 0; e < count; ++e) {
      const Matrix psi = std::sqrt(irrep.size) * irrep.at(elements[static_cast<size_t>(e)]);
      for (int j = 0; j < copies; ++j)
        for (int i = 0; i < irrep.size; ++i)
          columns[first + static_cast<size_t>(j * irrep.size + i)][e] = psi(i, j);
    }
  }
  Matrix out(count, static_cast<Eigen::Index>(columns.size()));
  for (size_t c = 0; c < columns.size(); ++c) out.col(static_cast<Eigen::Index>(c)) = columns[c];
  return out;
}

GroupDensity::GroupDensity(GroupPtr group, int band, int resolved)
    : group_(std::move(group)),
      band_(group_->is_finite() ? std::min(band, group_->largest_band()) : band) {
  expect_at_least("band of a density", band, 0);
  // exp(l) has all frequencies; their coefficients fall faster than exponentially beyond the band.
  const int fine = group_->dimension() == 2 ? 16 : 8;
  quadrature_ = group_->quadrature(fine * std::max({band_, resolved, 1}));
  to_logits_ = fourier_matrix(*group_, band_, quadrature_.nodes);
  at_identity_ = fourier_matrix(*group_, band_, {group_->identity()}).row(0);
}

GroupDensity::At GroupDensity::at(const Vector& theta) const {
  if (theta.size() != to_logits_.cols())
    throw UsageError(fmt::format("coefficients of a density: expected {}, found {}",
                                 to_logits_.cols(), theta.size()));
  const Vector logits = to_logits_ * theta;
  const double largest = logits.maxCoeff();
  Vector density = (logits.array() - largest).exp();
  const double mean = quadrature_.weights.dot(density);
  density /= mean;
  At out;
  out.log_normaliser = std::log(mean) + largest;
  out.spectrum = to_logits_.transpose() * density.cwiseProduct(quadrature_.weights);
  out.divergence = out.spectrum.dot(theta) - out.log_normaliser;
  out.alignment = std::max(largest - at_identity_.dot(theta), 0.0);
  out.density = std::move(density);
  return out;
}

Matrix GroupDensity::expectation(const At& at, const Irrep& irrep) const {
  Matrix out = Matrix::Zero(irrep.size, irrep.size);
  for (size_t i = 0; i < quadrature_.nodes.size(); ++i) {
    const auto node = static_cast<Eigen::Index>(i);
    out += quadrature_.weights[node] * at.density[node] * irrep.at(quadrature_.nodes[i]);
  }
  return out;
}

}  // namespace evariste
