// Densities on groups: published values, identities, and what they are for kernels.
#include "tests/catch.h"

#include "core/error.h"
#include "groups/fourier.h"
#include "groups/planar.h"

using namespace evariste;

namespace {

Vector vector_of(std::initializer_list<double> values) {
  Vector out(static_cast<Eigen::Index>(values.size()));
  std::copy(values.begin(), values.end(), out.begin());
  return out;
}

void check_close(const Vector& found, const Vector& expected, double tolerance) {
  REQUIRE(found.size() == expected.size());
  for (Eigen::Index i = 0; i < found.size(); ++i)
    CHECK(found[i] == Approx(expected[i]).margin(tolerance));
}

}  // namespace

TEST_CASE("basis functions of every group are orthonormal", "[fourier]") {
  for (const auto& group : builtin_groups()) {
    CAPTURE(group->name(), group->dimension());
    const int band = group->is_finite() ? group->largest_band() : 2;
    const auto nodes = group->quadrature(2 * band);
    const auto a = fourier_matrix(*group, band, nodes.nodes);
    const Matrix gram = a.transpose() * nodes.weights.asDiagonal() * a;
    CHECK((gram - Matrix::Identity(gram.rows(), gram.rows())).cwiseAbs().maxCoeff() < 1e-11);
    CHECK(a.cols() == spectral_regular_representation(group, band).size());
    if (group->is_finite()) CHECK(a.cols() == group->order());
  }
}

TEST_CASE("densities have the published numbers", "[fourier]") {
  const GroupDensity circle(make_group("SO(2)"), 2);
  const auto first = circle.at(vector_of({1, .5, .3, -.2, .1}));
  CHECK(first.log_normaliser == Approx(1.18746887).margin(1e-8));
  CHECK(first.divergence == Approx(.17405896).margin(1e-8));
  CHECK(first.alignment == Approx(.56136655).margin(1e-2));  // the maximum lies between nodes
  check_close(first.spectrum, vector_of({1, .41790464, .34617991, -.14716754, .19288017}), 1e-8);
  const auto mean = circle.expectation(first, circle.group().irrep("(1)"));
  CHECK(mean(0, 0) == Approx(.41790464 / std::sqrt(2)).margin(1e-8));
  CHECK(mean(1, 0) == Approx(.34617991 / std::sqrt(2)).margin(1e-8));
  CHECK(mean(0, 1) == Approx(-.34617991 / std::sqrt(2)).margin(1e-8));

  const auto mises = circle.at(vector_of({0, 1, 0, 0, 0}));
  CHECK(mises.log_normaliser == Approx(.44857755).margin(1e-8));
  CHECK(mises.divergence == Approx(.36346339).margin(1e-8));
  check_close(mises.spectrum, vector_of({1, .81204094, 0, .26581425, 0}), 1e-8);
  CHECK(mises.alignment == Approx(0).margin(1e-12));

  const auto other = circle.at(vector_of({0, 0, 1, .5, 0}));
  CHECK(other.log_normaliser == Approx(.43703864).margin(1e-8));
  CHECK(other.divergence == Approx(.27304629).margin(1e-8));

  const GroupDensity o2(make_group("O(2)"), 1);
  const auto with_flips = o2.at(vector_of({1, .3, .4, -.2, .1, .25}));
  CHECK(with_flips.log_normaliser == Approx(1.21166435).margin(1e-8));
  CHECK(with_flips.divergence == Approx(.23271826).margin(1e-8));
  check_close(with_flips.spectrum,
              vector_of({1, .39072155, .44781486, -.21598195, .15554384, .35715770}), 1e-8);
  double rotations = 0;
  for (size_t i = 0; i < o2.nodes().nodes.size(); ++i)
    if (o2.nodes().nodes[i].determinant() > 0)
      rotations += o2.nodes().weights[static_cast<Eigen::Index>(i)] *
                   with_flips.density[static_cast<Eigen::Index>(i)];
  CHECK(rotations == Approx(.69536077).margin(1e-8));

  const GroupDensity c4(make_group("C4"), 2);
  const auto turns = c4.at(vector_of({0, .6, -.3, .4}));
  check_close(turns.density, vector_of({2.49527459, .31399022, .45718942, .73354577}), 1e-8);
  check_close(turns.spectrum, vector_of({1, .72057192, -.14833528, .47623200}), 1e-8);
  CHECK(turns.divergence == Approx(.33320718).margin(1e-8));
  CHECK(turns.alignment == Approx(0).margin(1e-12));
}

TEST_CASE("a density is positive, has mean one, and the trivial coefficient does not matter",
          "[fourier]") {
  for (const auto& group : builtin_groups()) {
    CAPTURE(group->name(), group->dimension());
    const GroupDensity density(group, 1);
    Draws draws(Stream(4).split(group->name()));
    Vector theta(density.coefficients());
    for (auto& entry : theta) entry = 0.7 * draws.normal();
    const auto at = density.at(theta);
    CHECK(at.density.minCoeff() > 0);
    CHECK(density.nodes().weights.dot(at.density) == Approx(1).epsilon(1e-12));
    CHECK(at.spectrum[0] == Approx(1).epsilon(1e-12));
    CHECK(at.divergence > -1e-12);
    CHECK(at.alignment >= 0);
    Vector shifted = theta;
    shifted[0] += 2;
    CHECK((density.at(shifted).density - at.density).cwiseAbs().maxCoeff() < 1e-12);
    const auto uniform = density.at(Vector::Zero(theta.size()));
    CHECK(uniform.divergence == Approx(0).margin(1e-12));
    for (const auto& irrep : group->irreps(1))
      CHECK(density.expectation(uniform, irrep).norm() ==
            Approx(irrep.is_trivial ? 1 : 0).margin(1e-12));
  }
}

TEST_CASE("a density of the wrong size is refused", "[fourier]") {
  CHECK_THROWS_WITH(GroupDensity(make_group("SO(2)"), 1).at(Vector::Zero(4)),
                    Contains("expected 3, found 4"));
  CHECK_THROWS_WITH(GroupDensity(make_group("SO(2)"), -1), Contains("band"));
}
