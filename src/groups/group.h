// Compact groups that act orthogonally on the plane or on space, their irreducible representations
// and their integrals.
//
// Every group here is a closed subgroup of O(2) or O(3), and an element is the matrix that it acts
// by. So products, inverses, subgroups and restriction are those of matrices, and there is one
// definition of every rotation. Irreps are real and orthogonal; all numbers are float64.
#pragma once

#include <Eigen/Dense>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/stream.h"

namespace evariste {

using Matrix = Eigen::MatrixXd;
using Vector = Eigen::VectorXd;

/// Orthogonal, [d, d] with d = 2 or 3, kept without allocation. Points of the plane are (x, y) with
/// y up, those of space (x, y, z).
using Element = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, 0, 3, 3>;

/// An irreducible representation psi, orthogonal [size, size].
struct Irrep {
  std::string name;  ///< "(2)", "(1,2)", "T1": one to one within a group
  int size = 1;
  /// Dimension of the matrices that commute with it: 1 (real type) or 2 (complex type).
  int endomorphisms = 1;
  int frequency = 0;  ///< degree of the first harmonics that it, or its product with a sign, is in
  bool is_trivial = false;
  std::function<Matrix(const Element&)> at;
};

/// sum_i weights[i] f(nodes[i]) for the integral of f under the Haar measure of mass 1.
struct Quadrature {
  std::vector<Element> nodes;
  Vector weights;
};

class Group {
 public:
  virtual ~Group() = default;
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  const std::string& name() const { return name_; }
  int dimension() const { return dimension_; }  ///< of the plane or space that it acts on
  bool is_finite() const { return !elements_.empty(); }
  /// Number of elements; throws UsageError where there are infinitely many.
  int64_t order() const { return static_cast<int64_t>(elements().size()); }
  /// All elements, the identity first, in the order of the channels of a regular field. Throws
  /// UsageError for infinite groups.
  const std::vector<Element>& elements() const;
  /// Place of g in elements(); throws UsageError if it is not there.
  int64_t index_of(const Element& g) const;

  Element identity() const { return Element::Identity(dimension_, dimension_); }
  /// Finite groups: a set that generates them. Infinite ones: one that generates a dense subgroup,
  /// which a continuous property may be checked on.
  virtual std::vector<Element> generators() const = 0;
  /// To 1e-9 in every entry.
  virtual bool contains(const Element& g) const;
  /// Of the Haar measure.
  virtual Element sample(Draws& draws) const;
  /// Exact, to rounding, for products of entries of irreps whose frequencies add up to `band`;
  /// for finite groups the mean over all elements, whatever the band.
  virtual Quadrature quadrature(int band) const;

  /// Those with frequencies up to `band`, the trivial one first.
  virtual std::vector<Irrep> irreps(int band) const = 0;
  /// The irrep of this name; throws UsageError with the names there are.
  virtual Irrep irrep(std::string_view name) const;
  /// Of a finite group: the band that has all irreps.
  virtual int largest_band() const = 0;

  /// How harmonics of degree f transform: homogeneous polynomials on the circle, (cos f phi, sin f
  /// phi) or 1, or on the sphere, the 2 f + 1 real ones (wigner.h). Y(g x) = Z(g) Y(x).
  virtual Matrix harmonics(int degree, const Element& g) const = 0;

 protected:
  Group(std::string name, int dimension, std::vector<Element> elements = {})
      : name_(std::move(name)), dimension_(dimension), elements_(std::move(elements)) {}

 private:
  std::string name_;
  int dimension_;
  std::vector<Element> elements_;
};

using GroupPtr = std::shared_ptr<const Group>;

/// The group of a name. In the plane: "C4", "SO(2)" (rotations), "D4", "O(2)" (with reflections;
/// "D4@45" has the axis of the first reflection at 45 degrees, without it at 90: a horizontal
/// flip). In space: "T", "O", "I" (rotations of tetrahedron, cube, icosahedron), "SO(3)"; with the
/// inversion x -> -x "Ci", "Th", "Oh", "Ih", "O(3)"; and with dimension = 3 the planar ones, about
/// the z axis. Throws UsageError naming what is known.
GroupPtr make_group(std::string_view name, int dimension = 0);

/// One of every kind, for tests that go over all: the first few orders of those with an order.
std::vector<GroupPtr> builtin_groups();

/// Every element of `subgroup` is one of `group`.
bool is_subgroup(const Group& subgroup, const Group& group);

/// Subgroups that have a name (make_group), each before those that contain it, itself last. Of a
/// finite planar group all, up to conjugation; of other groups the polyhedral ones as they lie, and
/// those about the z axis of orders 1, 2, 3, 4, 5, 6, 8, 12, 16.
std::vector<GroupPtr> subgroups(const Group& group);

/// R(2 pi numerator/denominator) [2, 2], exact at eighths of a turn up to one rounding.
Element rotation_by_turns(int64_t numerator, int64_t denominator);
Element rotation_by_angle(double radians);  ///< [2, 2], counter-clockwise
/// Reflection of the plane about the line through the origin at this angle.
Element reflection_about(double radians);

}  // namespace evariste
