// Rotations of the plane, with or without reflections: C_N, D_N, SO(2), O(2).
#pragma once

#include "groups/group.h"

namespace evariste {

/// Elements are R(theta) or R(theta) S, with S the reflection about the line at `axis` radians.
///
/// Irreps by frequency k, names of Weiler & Cesa 2019 (arXiv 1911.08251): without reflections
/// "(k)", R(k theta), and for even N "(N/2)", (-1)^r; with them "(j,k)": "(0,0)" trivial, "(1,0)"
/// the sign of reflections, "(1,k)" R(k theta) diag(1, -1)^s, and for even N "(1,N/2)", (-1)^(r+s),
/// and "(0,N/2)",
/// (-1)^r, of size 1.
class PlanarGroup : public Group {
 public:
  /// `order` rotations; 0: all of them.
  PlanarGroup(int order, bool has_reflections, double axis = kVertical);

  static constexpr double kVertical = 1.5707963267948966;  ///< (x, y) -> (-x, y)

  int rotations() const { return order_; }
  bool has_reflections() const { return has_reflections_; }
  double axis() const { return axis_; }

  /// R(theta) S^s.
  Element element(double theta, bool reflects = false) const;
  /// theta in [0, 2 pi) and s of an element of O(2).
  std::pair<double, bool> angle_of(const Element& g) const;

  std::vector<Element> generators() const override;
  bool contains(const Element& g) const override;
  Element sample(Draws& draws) const override;
  Quadrature quadrature(int band) const override;
  std::vector<Irrep> irreps(int band) const override;
  Irrep irrep(std::string_view name) const override;
  int largest_band() const override;
  Matrix harmonics(int degree, const Element& g) const override;

 private:
  Irrep of_frequency(int k) const;
  Irrep sign(int reflects, int k) const;

  int order_;
  bool has_reflections_;
  double axis_;
};

}  // namespace evariste
