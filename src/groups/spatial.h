// Groups of rotations of space, with or without the inversion x -> -x.
#pragma once

#include "groups/group.h"

namespace evariste {

/// All rotations. Irreps "(l)", the matrices D_l of wigner.h.
class RotationsOfSpace : public Group {
 public:
  RotationsOfSpace() : Group("SO(3)", 3) {}
  std::vector<Element> generators() const override;
  bool contains(const Element& g) const override;
  /// The rotation of a random unit quaternion.
  Element sample(Draws& draws) const override;
  /// Angles z, y, z: uniform, Gauss-Legendre in the cosine, uniform.
  Quadrature quadrature(int band) const override;
  std::vector<Irrep> irreps(int band) const override;
  Irrep irrep(std::string_view name) const override;
  int largest_band() const override { return 0; }
  Matrix harmonics(int degree, const Element& g) const override;
};

/// The rotations that keep a regular solid. Irreps with the chemists' names: T has A, E (complex
/// type), T; O has A1, A2, E, T1, T2; I has A, T1, T2, G, H.
class PolyhedralGroup : public Group {
 public:
  enum class Solid { kTetrahedron, kCube, kIcosahedron };
  explicit PolyhedralGroup(Solid solid);
  std::vector<Element> generators() const override;
  std::vector<Irrep> irreps(int band) const override;
  int largest_band() const override { return 3; }
  Matrix harmonics(int degree, const Element& g) const override;

 private:
  Solid solid_;
  std::vector<Irrep> irreps_;
};

/// Direct product of a group of rotations with {1, -1}: irreps "(p,NAME)", those of the factor
/// times
/// (-1)^p for elements with determinant -1. Elements: first the rotations, then each times -1.
class WithInversion : public Group {
 public:
  explicit WithInversion(GroupPtr rotations);
  std::vector<Element> generators() const override;
  bool contains(const Element& g) const override;
  Element sample(Draws& draws) const override;
  Quadrature quadrature(int band) const override;
  std::vector<Irrep> irreps(int band) const override;
  Irrep irrep(std::string_view name) const override;
  int largest_band() const override { return rotations_->largest_band(); }
  Matrix harmonics(int degree, const Element& g) const override;
  const Group& rotations() const { return *rotations_; }

 private:
  GroupPtr rotations_;
};

/// A planar group acting on space about the z axis; its reflections keep z.
class AboutAxis : public Group {
 public:
  explicit AboutAxis(GroupPtr planar);
  std::vector<Element> generators() const override;
  bool contains(const Element& g) const override;
  Element sample(Draws& draws) const override;
  Quadrature quadrature(int band) const override;
  std::vector<Irrep> irreps(int band) const override;
  Irrep irrep(std::string_view name) const override;
  int largest_band() const override { return planar_->largest_band(); }
  Matrix harmonics(int degree, const Element& g) const override;

 private:
  GroupPtr planar_;
};

}  // namespace evariste
