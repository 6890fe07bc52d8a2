// Wigner matrices and the Clebsch-Gordan coefficients of rotations.
#include "tests/catch.h"

#include <boost/math/special_functions/spherical_harmonic.hpp>

#include "core/error.h"
#include "groups/representation.h"
#include "groups/wigner.h"

using namespace evariste;

namespace {

constexpr int kLargest = 8;

double distance(const Matrix& a, const Matrix& b) { return (a - b).cwiseAbs().maxCoeff(); }

/// Real harmonics from boost's complex ones, of length one: sqrt(4 pi/(2 l + 1)) times the
/// orthonormal ones, without the Condon-Shortley phase.
Vector real_harmonics(int l, const Eigen::Vector3d& x) {
  const double theta = std::acos(x.z() / x.norm()), phi = std::atan2(x.y(), x.x());
  const double scale = std::sqrt(4 * std::acos(-1.0) / (2 * l + 1));
  Vector out(2 * l + 1);
  for (int m = 0; m <= l; ++m) {
    const double sign = m % 2 ? -1 : 1, both = m == 0 ? 1 : std::sqrt(2.0);
    out[l + m] = scale * sign * both *
                 boost::math::spherical_harmonic_r(static_cast<unsigned>(l), m, theta, phi);
    if (m > 0)
      out[l - m] = scale * sign * both *
                   boost::math::spherical_harmonic_i(static_cast<unsigned>(l), m, theta, phi);
  }
  return out;
}

}  // namespace

TEST_CASE("Wigner matrices are orthogonal homomorphisms", "[groups][wigner]") {
  const auto group = make_group("SO(3)");
  Draws draws(Stream(5));
  for (int i = 0; i < 10; ++i) {
    const auto g = group->sample(draws), h = group->sample(draws);
    const auto of_g = wigner_matrices(kLargest, g), of_h = wigner_matrices(kLargest, h),
               of_both = wigner_matrices(kLargest, g * h);
    for (size_t l = 0; l <= kLargest; ++l) {
      CAPTURE(l);
      CHECK(distance(of_g[l] * of_g[l].transpose(),
                     Matrix::Identity(of_g[l].rows(), of_g[l].rows())) < 1e-12);
      CHECK(distance(of_g[l] * of_h[l], of_both[l]) < 1e-12);
    }
  }
}

TEST_CASE("Wigner matrices turn the harmonics", "[groups][wigner]") {
  const auto group = make_group("SO(3)");
  Draws draws(Stream(6));
  for (int i = 0; i < 10; ++i) {
    const auto g = group->sample(draws);
    const Eigen::Vector3d x(draws.normal(), draws.normal(), draws.normal());
    for (int l = 0; l <= kLargest; ++l) {
      CAPTURE(l);
      CHECK(distance(real_harmonics(l, g * x), wigner_matrix(l, g) * real_harmonics(l, x)) < 1e-11);
      CHECK(distance(spherical_harmonics(l, x), real_harmonics(l, x)) < 1e-11);
      CHECK(spherical_harmonics(l, x).norm() == Approx(1).epsilon(1e-12));
    }
  }
  const Vector first = spherical_harmonics(1, {1, 2, 2});
  CHECK(distance(first, Eigen::Vector3d(2, 2, 1) / 3) < 1e-14);  // (y, z, x)
  CHECK_THROWS_AS(spherical_harmonics(2, {0, 0, 0}), UsageError);
}

TEST_CASE("Clebsch-Gordan coefficients of rotations split the product", "[groups][wigner]") {
  const auto group = make_group("SO(3)");
  Draws draws(Stream(8));
  const auto g = group->sample(draws);
  const auto d = wigner_matrices(12, g);
  for (int a = 0; a <= 6; ++a)
    for (int b = 0; b <= 6; ++b) {
      Matrix product(d[static_cast<size_t>(a)].rows() * d[static_cast<size_t>(b)].rows(),
                     d[static_cast<size_t>(a)].rows() * d[static_cast<size_t>(b)].rows());
      const auto size = d[static_cast<size_t>(b)].rows();
      for (Eigen::Index i = 0; i < 2 * a + 1; ++i)
        for (Eigen::Index j = 0; j < 2 * a + 1; ++j)
          product.block(i * size, j * size, size, size) =
              d[static_cast<size_t>(a)](i, j) * d[static_cast<size_t>(b)];
      for (int j = std::abs(a - b); j <= a + b; ++j) {
        CAPTURE(a, b, j);
        const auto c = clebsch_gordan_so3(a, b, j);
        CHECK(distance(c.transpose() * c, Matrix::Identity(2 * j + 1, 2 * j + 1)) < 1e-12);
        CHECK(distance(product * c, c * d[static_cast<size_t>(j)]) < 1e-12);
      }
    }
  CHECK_THROWS_WITH(clebsch_gordan_so3(1, 1, 3), Contains("not in the product"));
}
