#include "groups/representation.h"

#include <algorithm>
#include <numeric>

#include "core/expect.h"
#include "groups/planar.h"
#include "groups/spatial.h"
#include "groups/wigner.h"

namespace evariste {
namespace {

constexpr double kZero = 1e-8;

/// Of a vector beside the columns found before; sign: first entry that is not zero positive.
Vector beside(const Matrix& found, Eigen::Index count, const Vector& v) {
  const auto old = found.leftCols(count);
  Vector out = v - old * (old.transpose() * v);
  out -= old * (old.transpose() * out);
  return out;
}

Vector signed_unit(Vector v) {
  v.normalize();
  for (Eigen::Index i = 0; i < v.size(); ++i)
    if (std::abs(v[i]) > 1e-6) return v[i] < 0 ? Vector(-v) : v;
  return v;
}

int largest_frequency(const std::vector<Irrep>& irreps) {
  int out = 0;
  for (const auto& irrep : irreps) out = std::max(out, irrep.frequency);
  return out;
}

/// (D_a (x) D_b) of rotations of space and its parity, by Racah's sum.
Representation product_in_space(const GroupPtr& group, const Irrep& a, const Irrep& b) {
  const auto* with_inversion = dynamic_cast<const WithInversion*>(group.get());
  const int odd = with_inversion ? (a.name[1] != b.name[1]) : 0;
  Matrix basis(a.size * b.size, a.size * b.size);
  std::vector<Irrep> irreps;
  int column = 0;
  for (int j = std::abs(a.frequency - b.frequency); j <= a.frequency + b.frequency; ++j) {
    basis.middleCols(column, 2 * j + 1) = clebsch_gordan_so3(a.frequency, b.frequency, j);
    irreps.push_back(
        group->irrep(with_inversion ? fmt::format("({},{})", odd, j) : fmt::format("({})", j)));
    column += 2 * j + 1;
  }
  return Representation(group, std::move(irreps), std::move(basis));
}

}  // namespace

Representation::Representation(GroupPtr group, std::vector<Irrep> irreps, Matrix basis)
    : group_(std::move(group)), irreps_(std::move(irreps)), basis_(std::move(basis)) {
  for (const auto& irrep : irreps_) {
    offsets_.push_back(size_);
    size_ += irrep.size;
  }
  if (basis_.size() == 0) basis_ = Matrix::Identity(size_, size_);
  if (basis_.rows() != size_ || basis_.cols() != size_)
    throw UsageError(fmt::format("basis of a representation: expected [{0}, {0}], found [{1}, {2}]",
                                 size_, basis_.rows(), basis_.cols()));
}

bool Representation::has_identity_basis() const {
  return (basis_ - Matrix::Identity(size_, size_)).cwiseAbs().maxCoeff() < kZero;
}

Matrix Representation::at(const Element& g) const {
  if (!group_->contains(g))
    throw UsageError(
        fmt::format("a representation of {} at an element that it does not have", group_->name()));
  Matrix turned(size_, size_);  // (psi_1 + ...) Q^T, block by block
  for (size_t i = 0; i < irreps_.size(); ++i)
    turned.middleRows(offsets_[i], irreps_[i].size) =
        irreps_[i].at(g) * basis_.middleCols(offsets_[i], irreps_[i].size).transpose();
  return basis_ * turned;
}

bool Representation::is_permutation() const {
  for (const auto& irrep : irreps_)
    if (!irrep.is_trivial && !group_->is_finite()) return false;
  for (const auto& g : group_->generators()) {
    const auto matrix = at(g);
    for (Eigen::Index i = 0; i < matrix.size(); ++i)
      if (const double entry = matrix(i); std::abs(entry) > kZero && std::abs(entry - 1) > kZero)
        return false;
  }
  return true;
}

Representation trivial_representation(GroupPtr group) {
  auto irreps = group->irreps(0);
  irreps.resize(1);
  return Representation(std::move(group), std::move(irreps));
}

Representation irrep_representation(GroupPtr group, std::string_view irrep) {
  auto only = group->irrep(irrep);
  return Representation(std::move(group), {std::move(only)});
}

Representation direct_sum(const std::vector<Representation>& parts) {
  if (parts.empty()) throw UsageError("a direct sum of no representations");
  int size = 0;
  std::vector<Irrep> irreps;
  for (const auto& part : parts) {
    if (part.group().name() != parts[0].group().name())
      throw UsageError(fmt::format("a direct sum of representations of {} and {}",
                                   parts[0].group().name(), part.group().name()));
    size += part.size();
    irreps.insert(irreps.end(), part.irreps().begin(), part.irreps().end());
  }
  Matrix basis = Matrix::Zero(size, size);
  int at = 0;
  for (const auto& part : parts) {
    basis.block(at, at, part.size(), part.size()) = part.basis();
    at += part.size();
  }
  return Representation(parts[0].group_ptr(), std::move(irreps), std::move(basis));
}

Representation decomposed(GroupPtr group, int size,
                          const std::function<Matrix(const Element&)>& rho, int band) {
  const auto candidates = group->irreps(group->is_finite() ? group->largest_band() : band);
  const auto quadrature = group->quadrature(2 * band);
  const auto nodes = quadrature.nodes.size();
  std::vector<Matrix> values;
  for (const auto& g : quadrature.nodes) values.push_back(rho(g));
  // E_a1 = d int psi_a1 rho maps the first component of every copy of psi to component a, and what
  // is not in a copy to zero: E_11 is a projector.
  Matrix basis(size, size);
  Eigen::Index found = 0;
  std::vector<Irrep> irreps;
  for (const auto& irrep : candidates) {
    if (found == size) break;
    std::vector<Matrix> to(static_cast<size_t>(irrep.size), Matrix::Zero(size, size));
    for (size_t i = 0; i < nodes; ++i) {
      const auto psi = irrep.at(quadrature.nodes[i]);
      const double weight = quadrature.weights[static_cast<Eigen::Index>(i)] * irrep.size;
      for (int a = 0; a < irrep.size; ++a)
        if (psi(a, 0) != 0) to[static_cast<size_t>(a)] += weight * psi(a, 0) * values[i];
    }
    // Of complex type both components lie in the image of E_11, and it counts them twice.
    const auto copies = std::llround(to[0].trace()) / irrep.endomorphisms;
    int64_t copy = 0;
    for (Eigen::Index j = 0; j < size && copy < copies; ++j) {
      const Vector column = beside(basis, found, to[0].col(j));
      if (column.norm() < 0.1 / std::sqrt(static_cast<double>(size))) continue;
      const Vector first = signed_unit(column);
      for (int a = 0; a < irrep.size; ++a)
        basis.col(found + a) = (to[static_cast<size_t>(a)] * first).normalized();
      found += irrep.size;
      irreps.push_back(irrep);
      ++copy;
    }
  }
  if (found == size) {
    Representation out(group, std::move(irreps), std::move(basis));
    const auto generators = group->generators();
    if (std::all_of(generators.begin(), generators.end(), [&](const Element& g) {
          return (out.at(g) - rho(g)).cwiseAbs().maxCoeff() < kZero;
        }))
      return out;
  }
  throw UsageError(
      fmt::format("a representation of {} of size {} is no sum of irreps with "
                  "frequencies up to {}",
                  group->name(), size, band));
}

Representation tensor_product(const GroupPtr& group, const Irrep& a, const Irrep& b) {
  const auto* with_inversion = dynamic_cast<const WithInversion*>(group.get());
  const auto& rotations = with_inversion ? with_inversion->rotations() : *group;
  if (dynamic_cast<const RotationsOfSpace*>(&rotations)) return product_in_space(group, a, b);
  const auto product = [&](const Element& g) {
    const Matrix left = a.at(g), right = b.at(g);
    Matrix out(a.size * b.size, a.size * b.size);
    for (int i = 0; i < a.size; ++i)
      for (int j = 0; j < a.size; ++j)
        out.block(i * b.size, j * b.size, b.size, b.size) = left(i, j) * right;
    return out;
  };
  return decomposed(group, a.size * b.size, product, a.frequency + b.frequency);
}

Representation harmonic_representation(const GroupPtr& group, int degree) {
  const auto size = static_cast<int>(group->harmonics(degree, group->identity()).rows());
  return decomposed(
      group, size, [&](const Element& g) { return group->harmonics(degree, g); }, degree);
}

Representation spectral_regular_representation(GroupPtr group, int band) {
  std::vector<Irrep> irreps;
  for (const auto& irrep : group->irreps(band))
    irreps.insert(irreps.end(), static_cast<size_t>(irrep.size / irrep.endomorphisms), irrep);
  return Representation(std::move(group), std::move(irreps));
}

Representation regular_representation(GroupPtr group) {
  const auto spectral = spectral_regular_representation(group, group->largest_band());
  const auto& elements = group->elements();
  const auto order = static_cast<int>(elements.size());
  // Row h is P(h) v / sqrt |G|: for each irrep sqrt(d) times the first columns of psi(h), a column
  // to each copy.
  Matrix basis(order, order);
  for (int h = 0; h < order; ++h) {
    int column = 0, copy = 0;
    for (size_t i = 0; i < spectral.irreps().size(); ++i) {
      const auto& irrep = spectral.irreps()[i];
      copy = i > 0 && spectral.irreps()[i - 1].name == irrep.name ? copy + 1 : 0;
      basis.block(h, column, 1, irrep.size) =
          std::sqrt(irrep.size / static_cast<double>(order)) *
          irrep.at(elements[static_cast<size_t>(h)]).col(copy).transpose();
      column += irrep.size;
    }
  }
  return Representation(std::move(group), spectral.irreps(), std::move(basis));
}

Representation induced_representation(const GroupPtr& group, const Representation& sigma) {
  const auto& subgroup = sigma.group();
  if (!is_subgroup(subgroup, *group))
    throw UsageError(fmt::format("{} is no subgroup of {}", subgroup.name(), group->name()));
  std::vector<Element> representatives;
  for (const auto& g : group->elements()) {
    const bool is_known =
        std::any_of(representatives.begin(), representatives.end(),
                    [&](const Element& r) { return subgroup.contains(r.transpose() * g); });
    if (!is_known) representatives.push_back(g);
  }
  const auto d = sigma.size();
  const auto size = static_cast<int>(representatives.size()) * d;
  const auto rho = [&](const Element& g) {
    Matrix out = Matrix::Zero(size, size);
    for (size_t j = 0; j < representatives.size(); ++j)
      for (size_t i = 0; i < representatives.size(); ++i) {
        const Element h = representatives[i].transpose() * g * representatives[j];
        if (subgroup.contains(h))
          out.block(static_cast<Eigen::Index>(i) * d, static_cast<Eigen::Index>(j) * d, d, d) =
              sigma.at(h);
      }
    return out;
  };
  return decomposed(group, size, rho, group->largest_band());
}

Representation quotient_representation(const GroupPtr& group, const Group& subgroup) {
  // A handle that does not own: sigma lives as long as this call.
  const GroupPtr borrowed(GroupPtr(), &subgroup);
  return induced_representation(group, trivial_representation(borrowed));
}

Representation restricted(const Representation& rho, const GroupPtr& subgroup) {
  if (!is_subgroup(*subgroup, rho.group()))
    throw UsageError(fmt::format("{} is no subgroup of {}", subgroup->name(), rho.group().name()));
  if (subgroup->name() == rho.group().name()) return rho;
  // Irrep by irrep: those of the restriction lie where the irrep of the whole group lay.
  std::vector<Irrep> irreps;
  Matrix basis = Matrix::Zero(rho.size(), rho.size());
  for (size_t i = 0; i < rho.irreps().size(); ++i) {
    const auto& irrep = rho.irreps()[i];
    const auto part = decomposed(subgroup, irrep.size, irrep.at, largest_frequency({irrep}));
    basis.middleCols(rho.offset(i), irrep.size) =
        rho.basis().middleCols(rho.offset(i), irrep.size) * part.basis();
    irreps.insert(irreps.end(), part.irreps().begin(), part.irreps().end());
  }
  return Representation(subgroup, std::move(irreps), std::move(basis));
}

std::vector<Component> disentangled(const Representation& rho) {
  // Channels that some generator mixes belong together; parents of a union-find.
  const auto size = rho.size();
  std::vector<int> parent(static_cast<size_t>(size));
  std::iota(parent.begin(), parent.end(), 0);
  const std::function<int(int)> root = [&](int i) {
    auto& up = parent[static_cast<size_t>(i)];
    return up == i ? i : up = root(up);
  };
  for (const auto& g : rho.group().generators()) {
    const auto matrix = rho.at(g);
    for (int i = 0; i < size; ++i)
      for (int j = 0; j < size; ++j)
        if (std::abs(matrix(i, j)) > kZero) {
          const int a = root(i), b = root(j);
          parent[static_cast<size_t>(std::max(a, b))] = std::min(a, b);
        }
  }
  std::vector<Component> out;
  for (int first = 0; first < size; ++first) {
    if (root(first) != first) continue;
    std::vector<int> channels;
    for (int c = first; c < size; ++c)
      if (root(c) == first) channels.push_back(c);
    const auto part = [&](const Element& g) { return Matrix(rho.at(g)(channels, channels)); };
    out.push_back({channels, decomposed(rho.group_ptr(), static_cast<int>(channels.size()), part,
                                        largest_frequency(rho.irreps()))});
  }
  return out;
}

}  // namespace evariste
