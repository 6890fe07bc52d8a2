#include "groups/planar.h"

#include <algorithm>
#include <charconv>
#include <numbers>

#include "core/expect.h"

namespace evariste {
namespace {

constexpr double kTurn = 2 * std::numbers::pi;
constexpr double kSame = 1e-9;  // of matrix entries, and of angles in radians

std::string name_of(int order, bool has_reflections, double axis) {
  auto name = order == 0 ? std::string(has_reflections ? "O(2)" : "SO(2)")
                         : fmt::format("{}{}", has_reflections ? 'D' : 'C', order);
  if (has_reflections && std::abs(axis - PlanarGroup::kVertical) > kSame)
    name += fmt::format("@{:g}", axis * 360 / kTurn);
  return name;
}

std::vector<Element> elements_of(int order, bool has_reflections, double axis) {
  std::vector<Element> out;
  for (int r = 0; r < order; ++r) out.push_back(rotation_by_turns(r, order));
  if (has_reflections)
    for (int r = 0; r < order; ++r)
      out.push_back(out[static_cast<size_t>(r)] * reflection_about(axis));
  return out;
}

double sine_of_turns(int64_t numerator, int64_t denominator) {
  // sin(2 pi p/q), p/q brought to [-1/8, 1/8] of a turn, where sines and cosines are exact at 0.
  numerator %= denominator;
  if (numerator < 0) numerator += denominator;
  const auto eighth = 8 * numerator;
  const auto angle = [&](int64_t over) {  // 2 pi (over/8 of the denominator, exactly subtracted)
    return kTurn * static_cast<double>(over) / (8.0 * static_cast<double>(denominator));
  };
  if (eighth <= denominator) return std::sin(angle(eighth));
  if (eighth <= 3 * denominator) return std::cos(angle(eighth - 2 * denominator));
  if (eighth <= 5 * denominator) return -std::sin(angle(eighth - 4 * denominator));
  if (eighth <= 7 * denominator) return -std::cos(angle(eighth - 6 * denominator));
  return std::sin(angle(eighth - 8 * denominator));
}

}  // namespace

Element rotation_by_turns(int64_t numerator, int64_t denominator) {
  const double s = sine_of_turns(numerator, denominator);
  const double c = sine_of_turns(4 * numerator + denominator, 4 * denominator);
  Element out(2, 2);
  out << c, -s, s, c;
  return out;
}

Element rotation_by_angle(double radians) {
  Element out(2, 2);
  out << std::cos(radians), -std::sin(radians), std::sin(radians), std::cos(radians);
  return out;
}

Element reflection_about(double radians) {
  Element flip(2, 2);
  flip << 1, 0, 0, -1;
  const double quarters = radians * 4 / std::numbers::pi;  // eighths of a turn, exact there
  const auto nearest = std::round(quarters);
  const Element turn = std::abs(quarters - nearest) < kSame
                           ? rotation_by_turns(static_cast<int64_t>(2 * nearest), 8)
                           : rotation_by_angle(2 * radians);
  return turn * flip;
}

PlanarGroup::PlanarGroup(int order, bool has_reflections, double axis)
    : Group(name_of(order, has_reflections, axis), 2, elements_of(order, has_reflections, axis)),
      order_(order),
      has_reflections_(has_reflections),
      axis_(axis) {
  expect_at_least("order of a group", order, 0);
}

Element PlanarGroup::element(double theta, bool reflects) const {
  const Element turn = rotation_by_angle(theta);
  return reflects ? Element(turn * reflection_about(axis_)) : turn;
}

std::pair<double, bool> PlanarGroup::angle_of(const Element& g) const {
  const bool reflects = g.determinant() < 0;
  const Element turn = reflects ? Element(g * reflection_about(axis_)) : g;
  const double theta = std::atan2(turn(1, 0), turn(0, 0));
  return {theta < 0 ? theta + kTurn : theta, reflects};
}

std::vector<Element> PlanarGroup::generators() const {
  std::vector<Element> out;
  if (order_ == 0) out.push_back(rotation_by_angle(1.0));  // an irrational part of a turn
  if (order_ > 1) out.push_back(rotation_by_turns(1, order_));
  if (has_reflections_) out.push_back(reflection_about(axis_));
  if (out.empty()) out.push_back(identity());
  return out;
}

bool PlanarGroup::contains(const Element& g) const {
  if (g.rows() != 2) return false;
  if (order_ > 0) return Group::contains(g);
  return (g * g.transpose() - identity()).cwiseAbs().maxCoeff() < kSame &&
         (has_reflections_ || g.determinant() > 0);
}

Element PlanarGroup::sample(Draws& draws) const {
  if (order_ > 0) return Group::sample(draws);
  const double theta = draws.uniform(0, kTurn);
  return element(theta, has_reflections_ && draws.uniform() < 0.5);
}

Quadrature PlanarGroup::quadrature(int band) const {
  if (order_ > 0) return Group::quadrature(band);
  Quadrature out;
  const int count = std::max(band, 0) + 1;  // cos k theta sums to 0 for k = 1 ... band
  for (int s = 0; s <= (has_reflections_ ? 1 : 0); ++s)
    for (int i = 0; i < count; ++i) {
      const Element turn = rotation_by_turns(i, count);
      out.nodes.push_back(s ? Element(turn * reflection_about(axis_)) : turn);
    }
  const auto nodes = static_cast<Eigen::Index>(out.nodes.size());
  out.weights = Vector::Constant(nodes, 1.0 / static_cast<double>(nodes));
  return out;
}

int PlanarGroup::largest_band() const { return order_ / 2; }

Irrep PlanarGroup::of_frequency(int k) const {
  Irrep out;
  out.name = has_reflections_ ? fmt::format("(1,{})", k) : fmt::format("({})", k);
  out.size = 2, out.endomorphisms = has_reflections_ ? 1 : 2, out.frequency = k;
  out.at = [k, order = order_, mirror = reflection_about(axis_),
            has_reflections = has_reflections_](const Element& g) {
    const bool reflects = has_reflections && g.determinant() < 0;
    const Element turn = reflects ? Element(g * mirror) : g;
    const double theta = std::atan2(turn(1, 0), turn(0, 0));
    Matrix m = order > 0 ? rotation_by_turns(k * std::llround(theta * order / kTurn), order)
                         : rotation_by_angle(k * theta);
    if (reflects) m.col(1) *= -1;
    return m;
  };
  return out;
}

/// (-1)^(s reflects + r [k = N/2]).
Irrep PlanarGroup::sign(int reflects, int k) const {
  Irrep out;
  out.name = has_reflections_ ? fmt::format("({},{})", reflects, k) : fmt::format("({})", k);
  out.frequency = k, out.is_trivial = reflects == 0 && k == 0;
  out.at = [reflects, k, order = order_, mirror = reflection_about(axis_),
            has_reflections = has_reflections_](const Element& g) {
    const bool s = has_reflections && g.determinant() < 0;
    double value = s && reflects ? -1 : 1;
    if (k > 0) {
      const Element turn = s ? Element(g * mirror) : g;
      const auto r = std::llround(std::atan2(turn(1, 0), turn(0, 0)) * order / kTurn);
      if (r % 2 != 0) value = -value;
    }
    return Matrix::Constant(1, 1, value);
  };
  return out;
}

std::vector<Irrep> PlanarGroup::irreps(int band) const {
  std::vector<Irrep> out = {sign(0, 0)};
  if (has_reflections_) out.push_back(sign(1, 0));
  const int last = order_ > 0 ? std::min(band, largest_band()) : band;
  for (int k = 1; k <= last; ++k) {
    const bool splits = order_ > 0 && 2 * k == order_;
    out.push_back(splits ? sign(has_reflections_ ? 1 : 0, k) : of_frequency(k));
    if (splits && has_reflections_) out.push_back(sign(0, k));
  }
  return out;
}

Irrep PlanarGroup::irrep(std::string_view name) const {
  if (order_ > 0) return Group::irrep(name);
  const auto comma = name.find(',');
  const auto digits = comma == std::string_view::npos
                          ? name.substr(std::min<size_t>(1, name.size()))
                          : name.substr(comma + 1);
  int k = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), k);
  if (error == std::errc() && k >= 0 && k < 1000)
    for (const auto& irrep : irreps(k))
      if (irrep.name == name) return irrep;
  throw UsageError(fmt::format(
      "irrep of {}: expected {}, found \"{}\"", this->name(),
      has_reflections_ ? "\"(0,0)\", \"(1,0)\", \"(1,1)\", \"(1,2)\" ..." : "\"(0)\", \"(1)\" ...",
      name));
}

Matrix PlanarGroup::harmonics(int degree, const Element& g) const {
  if (degree == 0) return Matrix::Ones(1, 1);
  const bool reflects = g.determinant() < 0;
  const double theta = std::atan2(g(1, 0), g(0, 0));  // of R(theta) diag(1, -1)^s
  Matrix out = order_ > 0 && !reflects
                   ? rotation_by_turns(degree * std::llround(theta * order_ / kTurn), order_)
                   : rotation_by_angle(degree * theta);
  if (reflects) out.col(1) *= -1;
  return out;
}

}  // namespace evariste
