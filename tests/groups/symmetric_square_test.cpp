// Symmetric squares: they intertwine, keep lengths, and hold the irreps that are known of them.
#include "groups/symmetric_square.h"

#include "tests/catch.h"

using namespace evariste;

namespace {

/// C times the products of a vector's components.
Vector squared(const SymmetricSquare& square, const Vector& x) {
  Vector products(square.coefficients.cols());
  Eigen::Index pair = 0;
  for (Eigen::Index a = 0; a < x.size(); ++a)
    for (Eigen::Index b = a; b < x.size(); ++b) products[pair++] = x[a] * x[b];
  return square.coefficients * products;
}

Vector random_vector(Draws& draws, int size) {
  Vector out(size);
  for (auto& entry : out) entry = draws.normal();
  return out;
}

void check_square(const Representation& rho, Draws& draws) {
  const auto square = symmetric_square(rho);
  const auto size = rho.size();
  CHECK(square.representation.size() == size * (size + 1) / 2);
  CHECK(square.representation.has_identity_basis());
  for (int i = 0; i < 4; ++i) {
    const auto g = rho.group().sample(draws);
    const auto x = random_vector(draws, size);
    const auto y = squared(square, x);
    const Vector expected = square.representation.at(g) * y;
    CHECK((squared(square, rho.at(g) * x) - expected).cwiseAbs().maxCoeff() <
          1e-11 * x.squaredNorm());
    CHECK(y.norm() == Approx(x.squaredNorm()).epsilon(1e-12));
  }
}

std::string irreps_of(const Representation& rho) {
  std::string out;
  const auto square = symmetric_square(rho);
  for (const auto& irrep : square.representation.irreps()) out += irrep.name;
  return out;
}

}  // namespace

TEST_CASE("symmetric squares of irreps intertwine and keep lengths, for every group", "[groups]") {
  Draws draws(Stream(2));
  for (const auto& group : builtin_groups()) {
    const int band = group->is_finite() ? std::min(group->largest_band(), 3) : 2;
    for (const auto& irrep : group->irreps(band)) {
      CAPTURE(group->name(), group->dimension(), irrep.name);
      check_square(irrep_representation(group, irrep.name), draws);
    }
  }
}

TEST_CASE("symmetric squares of fields of several irreps intertwine and keep lengths", "[groups]") {
  Draws draws(Stream(3));
  for (const char* name : {"C1", "C4", "C5", "D3", "D4"})
    check_square(regular_representation(make_group(name, 2)), draws);
  check_square(regular_representation(make_group("T", 3)), draws);
  for (const char* name : {"SO(2)", "O(2)"})
    check_square(spectral_regular_representation(make_group(name, 2), 2), draws);
  for (const char* name : {"SO(3)", "O(3)"})
    check_square(spectral_regular_representation(make_group(name, 3), 1), draws);
  const auto group = make_group("D4");
  check_square(quotient_representation(group, *make_group("C2", 2)), draws);
  check_square(direct_sum({irrep_representation(group, "(1,1)"), regular_representation(group)}),
               draws);
}

TEST_CASE("symmetric squares have the irreps of the Clebsch-Gordan series", "[groups]") {
  const auto irrep = [](const char* group, const char* name, int dimension = 2) {
    return irreps_of(irrep_representation(make_group(group, dimension), name));
  };
  CHECK(irrep("SO(2)", "(1)") == "(0)(2)");  // the other (0) of (1) x (1) is antisymmetric
  CHECK(irrep("SO(2)", "(0)") == "(0)");
  CHECK(irrep("O(2)", "(1,2)") == "(0,0)(1,4)");
  CHECK(irrep("O(2)", "(1,0)") == "(0,0)");
  CHECK(irrep("C4", "(1)") == "(0)(2)(2)");
  CHECK(irrep("C3", "(1)") == "(0)(1)");
  CHECK(irrep("SO(3)", "(1)", 3) == "(0)(2)");
  CHECK(irrep("SO(3)", "(2)", 3) == "(0)(2)(4)");
  CHECK(irrep("O(3)", "(1,1)", 3) == "(0,0)(0,2)");
  CHECK(irrep("O", "T1", 3) == "A1ET2");
}

TEST_CASE("the square of a vector of the plane is its length and its angle doubled", "[groups]") {
  const auto square = symmetric_square(irrep_representation(make_group("SO(2)"), "(1)"));
  Vector x(2);
  x << 3, 4;
  const auto y = squared(square, x);
  const double root = std::sqrt(0.5);
  CHECK(y[0] == Approx(root * 25));
  CHECK(y.tail(2).norm() == Approx(root * 25));
  CHECK(std::abs(y[1]) == Approx(root * 7));   // x^2 - y^2
  CHECK(std::abs(y[2]) == Approx(root * 24));  // 2 x y
}
