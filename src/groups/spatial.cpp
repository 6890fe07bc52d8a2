#include "groups/spatial.h"

#include <algorithm>
#include <boost/math/special_functions/legendre.hpp>
#include <charconv>
#include <numbers>

#include "core/expect.h"
#include "groups/planar.h"
#include "groups/wigner.h"

namespace evariste {
namespace {

constexpr double kSame = 1e-9;
constexpr double kGolden = std::numbers::phi;

Element rotation_about(const Eigen::Vector3d& axis, double radians) {
  return Eigen::AngleAxisd(radians, axis.normalized()).toRotationMatrix();
}

/// What `start` generates, the identity first, in the order of their finding. Entries are snapped
/// to those that rotations of regular solids have, so that products stay exact.
std::vector<Element> closure(const std::vector<Element>& generators) {
  const double known[] = {0, 0.5, 1, kGolden / 2, 0.5 / kGolden};
  const auto snapped = [&](Element g) {
    for (int64_t i = 0; i < 9; ++i) {
      double& entry = g(i / 3, i % 3);
      for (const double value : known)
        if (std::abs(std::abs(entry) - value) < 1e-6) entry = std::copysign(value, entry) + 0.0;
    }
    return g;
  };
  std::vector<Element> out = {Element::Identity(3, 3)};
  for (size_t i = 0; i < out.size(); ++i)
    for (const auto& generator : generators) {
      const auto next = snapped(out[i] * snapped(generator));
      const bool is_new = std::none_of(out.begin(), out.end(), [&](const Element& g) {
        return (g - next).cwiseAbs().maxCoeff() < kSame;
      });
      if (is_new) out.push_back(next);
    }
  return out;
}

std::vector<Element> generators_of(PolyhedralGroup::Solid solid) {
  using Eigen::Vector3d;
  const auto third = rotation_about(Vector3d(1, 1, 1), 2 * std::numbers::pi / 3);
  switch (solid) {
    case PolyhedralGroup::Solid::kTetrahedron:
      return {third, rotation_about(Vector3d::UnitZ(), std::numbers::pi)};
    case PolyhedralGroup::Solid::kCube:
      return {third, rotation_about(Vector3d::UnitZ(), std::numbers::pi / 2)};
    case PolyhedralGroup::Solid::kIcosahedron:
      return {third, rotation_about(Vector3d(0, 1, kGolden), 2 * std::numbers::pi / 5)};
  }
  throw std::logic_error("solid");
}

std::string_view name_of(PolyhedralGroup::Solid solid) {
  constexpr std::string_view names[] = {"T", "O", "I"};
  return names[static_cast<size_t>(solid)];
}

/// +1 or -1: of the permutation of axes that a signed permutation matrix makes.
double axis_parity(const Element& g) {
  return Eigen::Matrix3d(g.cwiseAbs()).determinant() > 0 ? 1 : -1;
}

/// How a permutation of the axes acts on the plane x + y + z = 0.
Matrix on_diagonal_plane(const Element& g) {
  Matrix plane(3, 2);  // orthonormal columns
  plane << -1 / std::sqrt(2.0), -1 / std::sqrt(6.0), 1 / std::sqrt(2.0), -1 / std::sqrt(6.0), 0,
      2 / std::sqrt(6.0);
  return plane.transpose() * g.cwiseAbs() * plane;
}

/// Orthonormal basis of the image of a projector, from its columns in order: the same on every
/// machine.
Matrix image(const Matrix& projector) {
  const auto rank = static_cast<Eigen::Index>(std::llround(projector.trace()));
  Matrix out(projector.rows(), rank);
  Eigen::Index found = 0;
  for (Eigen::Index j = 0; j < projector.cols() && found < rank; ++j) {
    Vector column = projector.col(j);
    column -= out.leftCols(found) * (out.leftCols(found).transpose() * column);
    if (column.norm() < 0.1) continue;
    out.col(found++) = column.normalized();
  }
  return out;
}

Irrep trivial(std::string name) {
  Irrep out;
  out.name = std::move(name), out.is_trivial = true;
  out.at = [](const Element&) { return Matrix::Ones(1, 1); };
  return out;
}

Irrep irrep_of(std::string name, int size, int frequency, std::function<Matrix(const Element&)> at,
               int endomorphisms = 1) {
  Irrep out;
  out.name = std::move(name), out.size = size, out.frequency = frequency;
  out.endomorphisms = endomorphisms, out.at = std::move(at);
  return out;
}

Matrix as_matrix(const Element& g) { return g; }

/// D_3 of an icosahedral rotation is T2 + G; the projector onto T2 by its character.
std::vector<Irrep> split_third_degree(const std::vector<Element>& elements) {
  // Of a rotation by 72 and 144 degrees, where the trace of T1, 1 + 2 cos, is the conjugate.
  const auto character = [](const Element& g) {
    const double conjugate[][2] = {
        {3, 3}, {kGolden, 1 - kGolden}, {1 - kGolden, kGolden}, {0, 0}, {-1, -1}};  // of T1, of T2
    for (const auto& [first, second] : conjugate)
      if (std::abs(g.trace() - first) < 1e-6) return second;
    throw std::logic_error("not a rotation of the icosahedron");
  };
  Matrix projector = Matrix::Zero(7, 7);
  for (const auto& g : elements)
    projector += 3.0 / static_cast<double>(elements.size()) * character(g) * wigner_matrix(3, g);
  const auto within = [](Matrix basis) {
    return [basis = std::move(basis)](const Element& g) {
      return Matrix(basis.transpose() * wigner_matrix(3, g) * basis);
    };
  };
  return {irrep_of("T2", 3, 3, within(image(projector))),
          irrep_of("G", 4, 3, within(image(Matrix::Identity(7, 7) - projector)))};
}

std::vector<Irrep> irreps_of(PolyhedralGroup::Solid solid, const std::vector<Element>& elements) {
  switch (solid) {
    case PolyhedralGroup::Solid::kTetrahedron:
      return {trivial("A"), irrep_of("T", 3, 1, as_matrix),
              irrep_of("E", 2, 2, on_diagonal_plane, 2)};
    case PolyhedralGroup::Solid::kCube:
      return {trivial("A1"), irrep_of("T1", 3, 1, as_matrix),
              irrep_of("E", 2, 2, on_diagonal_plane),
              irrep_of("T2", 3, 2, [](const Element& g) { return Matrix(axis_parity(g) * g); }),
              irrep_of("A2", 1, 3,
                       [](const Element& g) { return Matrix::Constant(1, 1, axis_parity(g)); })};
    case PolyhedralGroup::Solid::kIcosahedron: {
      std::vector<Irrep> out = {
          trivial("A"), irrep_of("T1", 3, 1, as_matrix),
          irrep_of("H", 5, 2, [](const Element& g) { return wigner_matrix(2, g); })};
      for (auto& irrep : split_third_degree(elements)) out.push_back(std::move(irrep));
      return out;
    }
  }
  throw std::logic_error("solid");
}

std::vector<Element> with_inversion(const Group& rotations) {
  if (!rotations.is_finite()) return {};
  auto out = rotations.elements();
  for (const auto& g : rotations.elements()) out.push_back(-g);
  return out;
}

std::string name_with_inversion(const std::string& rotations) {
  if (rotations == "SO(3)") return "O(3)";
  return rotations == "C1" ? "Ci" : rotations + "h";
}

/// p and the rotation r of g = (-1)^p r.
std::pair<int, Element> parity_of(const Element& g) {
  return g.determinant() < 0 ? std::pair{1, Element(-g)} : std::pair{0, g};
}

/// "(p,NAME)" with a factor's "(NAME)" or "NAME".
std::string name_with_parity(int parity, const std::string& name) {
  const auto bare = name.starts_with('(') ? name.substr(1, name.size() - 2) : name;
  return fmt::format("({},{})", parity, bare);
}

Element lifted(const Element& g) {
  Element out = Element::Identity(3, 3);
  out.topLeftCorner(2, 2) = g;
  return out;
}

Element lowered(const Element& g) { return g.topLeftCorner(2, 2); }

std::vector<Element> all_lifted(const std::vector<Element>& elements) {
  std::vector<Element> out;
  for (const auto& g : elements) out.push_back(lifted(g));
  return out;
}

}  // namespace

std::vector<Element> RotationsOfSpace::generators() const {
  return {rotation_about(Eigen::Vector3d::UnitZ(), 1.0),
          rotation_about(Eigen::Vector3d::UnitX(), 1.0)};
}

bool RotationsOfSpace::contains(const Element& g) const {
  return g.rows() == 3 && g.determinant() > 0 &&
         (g * g.transpose() - identity()).cwiseAbs().maxCoeff() < kSame;
}

Element RotationsOfSpace::sample(Draws& draws) const {
  Eigen::Vector4d q;
  do
    for (int i = 0; i < 4; ++i) q[i] = draws.normal();
  while (q.norm() < 1e-6);
  return Eigen::Quaterniond(q.normalized()).toRotationMatrix();
}

Quadrature RotationsOfSpace::quadrature(int band) const {
  band = std::max(band, 0);
  const int turns = band + 1, heights = band / 2 + 1;
  std::vector<double> cosines, weights;
  for (const double zero : boost::math::legendre_p_zeros<double>(heights))
    for (const double x : {zero, -zero}) {
      if (x == 0 && std::signbit(x)) continue;  // the middle one, once
      const double slope = boost::math::legendre_p_prime(heights, x);
      cosines.push_back(x), weights.push_back(1 / ((1 - x * x) * slope * slope));
    }
  std::vector<Element> about_z;
  for (int i = 0; i < turns; ++i) about_z.push_back(lifted(rotation_by_turns(i, turns)));
  Quadrature out;
  out.weights.resize(static_cast<Eigen::Index>(cosines.size()) * turns * turns);
  Eigen::Index node = 0;
  for (size_t h = 0; h < cosines.size(); ++h) {
    const auto tilt = rotation_about(Eigen::Vector3d::UnitY(), std::acos(cosines[h]));
    for (const auto& first : about_z)
      for (const auto& last : about_z) {
        out.nodes.push_back(first * tilt * last);
        out.weights[node++] = weights[h] / (turns * turns);
      }
  }
  return out;
}

std::vector<Irrep> RotationsOfSpace::irreps(int band) const {
  std::vector<Irrep> out = {trivial("(0)")};
  for (int l = 1; l <= band; ++l)
    out.push_back(irrep_of(fmt::format("({})", l), 2 * l + 1, l,
                           [l](const Element& g) { return wigner_matrix(l, g); }));
  return out;
}

Irrep RotationsOfSpace::irrep(std::string_view name) const {
  int l = -1;
  if (name.size() > 2) std::from_chars(name.data() + 1, name.data() + name.size(), l);
  if (l >= 0 && l < 100 && name == fmt::format("({})", l)) return irreps(l).back();
  throw UsageError(
      fmt::format("irrep of SO(3): expected \"(0)\", \"(1)\" ..., found \"{}\"", name));
}

Matrix RotationsOfSpace::harmonics(int degree, const Element& g) const {
  return wigner_matrix(degree, g);
}

PolyhedralGroup::PolyhedralGroup(Solid solid)
    : Group(std::string(name_of(solid)), 3, closure(generators_of(solid))),
      solid_(solid),
      irreps_(irreps_of(solid, elements())) {}

std::vector<Element> PolyhedralGroup::generators() const { return generators_of(solid_); }

std::vector<Irrep> PolyhedralGroup::irreps(int band) const {
  std::vector<Irrep> out;
  for (const auto& irrep : irreps_)
    if (irrep.frequency <= band) out.push_back(irrep);
  return out;
}

Matrix PolyhedralGroup::harmonics(int degree, const Element& g) const {
  return wigner_matrix(degree, g);
}

WithInversion::WithInversion(GroupPtr rotations)
    : Group(name_with_inversion(rotations->name()), 3, with_inversion(*rotations)),
      rotations_(std::move(rotations)) {}

std::vector<Element> WithInversion::generators() const {
  auto out = rotations_->generators();
  out.push_back(-identity());
  return out;
}

bool WithInversion::contains(const Element& g) const {
  return g.rows() == 3 && rotations_->contains(parity_of(g).second);
}

Element WithInversion::sample(Draws& draws) const {
  const auto turn = rotations_->sample(draws);
  return draws.uniform() < 0.5 ? turn : Element(-turn);
}

Quadrature WithInversion::quadrature(int band) const {
  auto out = rotations_->quadrature(band);
  const auto count = out.nodes.size();
  for (size_t i = 0; i < count; ++i) out.nodes.push_back(-out.nodes[i]);
  out.weights = out.weights.replicate(2, 1).eval() / 2;
  return out;
}

std::vector<Irrep> WithInversion::irreps(int band) const {
  std::vector<Irrep> out;
  for (const int parity : {0, 1})
    for (auto irrep : rotations_->irreps(band)) {
      irrep.name = name_with_parity(parity, irrep.name);
      irrep.is_trivial = irrep.is_trivial && parity == 0;
      irrep.at = [at = irrep.at, parity](const Element& g) {
        const auto [odd, turn] = parity_of(g);
        return Matrix(odd && parity ? -at(turn) : at(turn));
      };
      out.push_back(std::move(irrep));
    }
  return out;
}

Irrep WithInversion::irrep(std::string_view name) const {
  if (is_finite()) return Group::irrep(name);
  int l = -1;
  if (name.size() > 4) std::from_chars(name.data() + 3, name.data() + name.size(), l);
  if (l >= 0 && l < 100)
    for (const auto& irrep : irreps(l))
      if (irrep.name == name) return irrep;
  throw UsageError(fmt::format(
      "irrep of O(3): expected \"(0,0)\", \"(1,0)\", \"(0,1)\" ..., found \"{}\"", name));
}

Matrix WithInversion::harmonics(int degree, const Element& g) const {
  const auto [odd, turn] = parity_of(g);
  const auto matrix = rotations_->harmonics(degree, turn);
  return odd && degree % 2 ? -matrix : matrix;
}

AboutAxis::AboutAxis(GroupPtr planar)
    : Group(planar->name(), 3,
            planar->is_finite() ? all_lifted(planar->elements()) : std::vector<Element>()),
      planar_(std::move(planar)) {}

std::vector<Element> AboutAxis::generators() const { return all_lifted(planar_->generators()); }

bool AboutAxis::contains(const Element& g) const {
  return g.rows() == 3 && (g - lifted(lowered(g))).cwiseAbs().maxCoeff() < kSame &&
         planar_->contains(lowered(g));
}

Element AboutAxis::sample(Draws& draws) const { return lifted(planar_->sample(draws)); }

Quadrature AboutAxis::quadrature(int band) const {
  auto out = planar_->quadrature(band);
  out.nodes = all_lifted(out.nodes);
  return out;
}

std::vector<Irrep> AboutAxis::irreps(int band) const {
  auto out = planar_->irreps(band);
  for (auto& irrep : out) irrep.at = [at = irrep.at](const Element& g) { return at(lowered(g)); };
  return out;
}

Irrep AboutAxis::irrep(std::string_view name) const {
  auto out = planar_->irrep(name);
  out.at = [at = out.at](const Element& g) { return at(lowered(g)); };
  return out;
}

Matrix AboutAxis::harmonics(int degree, const Element& g) const {
  if (g.determinant() > 0) return wigner_matrix(degree, g);
  return (degree % 2 ? -1 : 1) * wigner_matrix(degree, -g);
}

}  // namespace evariste
