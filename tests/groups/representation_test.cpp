// Composite representations: products, regular, quotient, induced, restricted.
#include "tests/catch.h"

#include <map>

#include "core/error.h"
#include "groups/planar.h"
#include "groups/representation.h"

using namespace evariste;

namespace {

double distance(const Matrix& a, const Matrix& b) { return (a - b).cwiseAbs().maxCoeff(); }

std::string irreps_of(const Representation& rho) {
  std::string out;
  for (const auto& irrep : rho.irreps()) out += irrep.name;
  return out;
}

std::vector<Element> elements_or_samples(const Group& group) {
  if (group.is_finite() && group.order() <= 24) return group.elements();
  Draws draws(Stream(1).split(group.name()));
  auto out = group.generators();
  for (int i = 0; i < 6; ++i) out.push_back(group.sample(draws));
  return out;
}

/// Orthogonal basis, rho(g) rho(h) = rho(gh), identity to identity.
void check_representation(const Representation& rho) {
  const auto n = rho.size();
  CHECK(distance(rho.basis() * rho.basis().transpose(), Matrix::Identity(n, n)) < 1e-11);
  CHECK(distance(rho.at(rho.group().identity()), Matrix::Identity(n, n)) < 1e-11);
  const auto elements = elements_or_samples(rho.group());
  for (size_t i = 0; i + 1 < elements.size(); ++i)
    CHECK(distance(rho.at(elements[i] * elements[i + 1]),
                   rho.at(elements[i]) * rho.at(elements[i + 1])) < 1e-10);
}

Matrix kronecker(const Matrix& a, const Matrix& b) {
  Matrix out(a.rows() * b.rows(), a.cols() * b.cols());
  for (Eigen::Index i = 0; i < a.rows(); ++i)
    for (Eigen::Index j = 0; j < a.cols(); ++j)
      out.block(i * b.rows(), j * b.cols(), b.rows(), b.cols()) = a(i, j) * b;
  return out;
}

}  // namespace

TEST_CASE("products of irreps intertwine, for every pair of every group", "[groups]") {
  for (const auto& group : builtin_groups()) {
    const auto irreps = group->irreps(group->is_finite() ? std::min(group->largest_band(), 4)
                                                         : (group->dimension() == 2 ? 4 : 3));
    for (const auto& a : irreps)
      for (const auto& b : irreps) {
        CAPTURE(group->name(), group->dimension(), a.name, b.name);
        const auto product = tensor_product(group, a, b);
        const auto n = product.size();
        CHECK(distance(product.basis().transpose() * product.basis(), Matrix::Identity(n, n)) <
              1e-12);
        Draws draws(Stream(2).split(group->name()));
        for (int i = 0; i < 3; ++i) {
          const auto g = group->sample(draws);
          CHECK(distance(product.at(g), kronecker(a.at(g), b.at(g))) < 1e-12);
        }
      }
  }
}

TEST_CASE("products of planar irreps have the content of the tables", "[groups]") {
  const auto content = [](const char* name, const char* a, const char* b) {
    const auto group = make_group(name);
    return irreps_of(tensor_product(group, group->irrep(a), group->irrep(b)));
  };
  CHECK(content("SO(2)", "(1)", "(1)") == "(0)(0)(2)");
  CHECK(content("SO(2)", "(3)", "(1)") == "(2)(4)");
  CHECK(content("C4", "(1)", "(1)") == "(0)(0)(2)(2)");
  CHECK(content("C4", "(1)", "(2)") == "(1)");
  CHECK(content("C4", "(2)", "(2)") == "(0)");
  CHECK(content("C8", "(3)", "(2)") == "(1)(3)");
  CHECK(content("O(2)", "(1,0)", "(1,0)") == "(0,0)");
  CHECK(content("O(2)", "(1,0)", "(1,3)") == "(1,3)");
  CHECK(content("O(2)", "(1,2)", "(1,2)") == "(0,0)(1,0)(1,4)");
  CHECK(content("D4", "(1,1)", "(1,1)") == "(0,0)(1,0)(1,2)(0,2)");
  CHECK(content("D4", "(1,0)", "(1,2)") == "(0,2)");
  CHECK(content("D4", "(1,0)", "(0,2)") == "(1,2)");
  CHECK(content("D4", "(1,1)", "(1,2)") == "(1,1)");
  CHECK(content("SO(3)", "(1)", "(2)") == "(1)(2)(3)");
  CHECK(content("O(3)", "(1,1)", "(0,1)") == "(1,0)(1,1)(1,2)");
  CHECK(content("O", "T1", "T1") == "A1T1ET2");
}

TEST_CASE("Clebsch-Gordan columns are the closed forms of frequencies 1 and 1", "[groups]") {
  const auto group = make_group("SO(2)");
  const auto product = tensor_product(group, group->irrep("(1)"), group->irrep("(1)"));
  const double r = std::sqrt(0.5);
  Matrix expected(4, 4);  // rows e11 e12 e21 e22
  expected << r, 0, r, 0, 0, r, 0, r, 0, -r, 0, r, r, 0, -r, 0;
  CHECK(distance(product.basis(), expected) < 1e-14);
}

TEST_CASE("the regular representation permutes the elements", "[groups]") {
  for (const auto& group : builtin_groups()) {
    if (!group->is_finite()) continue;
    CAPTURE(group->name());
    const auto regular = regular_representation(group);
    CHECK(regular.is_permutation());
    check_representation(regular);
    const auto& elements = group->elements();
    const auto& g = elements[elements.size() / 2];
    const auto matrix = regular.at(g);
    for (size_t h = 0; h < elements.size(); ++h)
      CHECK(matrix(group->index_of(g * elements[h]), static_cast<Eigen::Index>(h)) ==
            Approx(1).epsilon(1e-12));
  }
}

TEST_CASE("the basis of the regular representations of C4 and D4 is the published one",
          "[groups]") {
  const double r = std::sqrt(0.5);
  Matrix c4(4, 4);
  c4 << .5, r, 0, .5, .5, 0, r, -.5, .5, -r, 0, .5, .5, 0, -r, -.5;
  CHECK(distance(regular_representation(make_group("C4")).basis(), c4) < 1e-14);
  const auto d4 = regular_representation(make_group("D4"));
  CHECK(irreps_of(d4) == "(0,0)(1,0)(1,1)(1,1)(1,2)(0,2)");
  const double e = std::sqrt(0.125);
  Matrix rows(3, 8);
  rows << e, e, .5, 0, 0, .5, e, e, e, e, 0, .5, -.5, 0, -e, -e, e, -e, .5, 0, 0, -.5, -e, e;
  CHECK(distance(d4.basis()({0, 1, 4}, Eigen::all), rows) < 1e-14);
}

TEST_CASE("quotients permute cosets, with Frobenius' multiplicities", "[groups]") {
  for (const char* name : {"C4", "C6", "D4", "D6", "O"}) {
    const auto group = make_group(name);
    for (const auto& subgroup : subgroups(*group)) {
      CAPTURE(name, subgroup->name());
      const auto quotient = quotient_representation(group, *subgroup);
      CHECK(quotient.size() == group->order() / subgroup->order());
      CHECK(quotient.is_permutation());
      check_representation(quotient);
      std::map<std::string, int> found;
      for (const auto& irrep : quotient.irreps()) ++found[irrep.name];
      for (const auto& irrep : group->irreps(group->largest_band())) {
        // Of psi in the quotient: how often its restriction is trivial, over dim End.
        double mean = 0;
        for (const auto& h : subgroup->elements()) mean += irrep.at(h).trace();
        mean /= static_cast<double>(subgroup->order()) * irrep.endomorphisms;
        CHECK(found[irrep.name] == Approx(mean).margin(1e-12));
      }
    }
  }
}

TEST_CASE("an induced representation restricts to what it came from", "[groups]") {
  const auto group = make_group("D6"), subgroup = make_group("C6");
  const auto sigma = irrep_representation(subgroup, "(2)");
  const auto induced = induced_representation(group, sigma);
  CHECK(irreps_of(induced) == "(1,2)(1,2)");
  check_representation(induced);
  for (const auto& h : subgroup->elements())
    CHECK(distance(induced.at(h).topLeftCorner(2, 2), sigma.at(h)) < 1e-12);
  CHECK_THROWS_WITH(induced_representation(make_group("C4"), sigma), Contains("no subgroup"));
}

TEST_CASE("restriction keeps the matrices", "[groups]") {
  for (const char* name : {"O(2)", "SO(2)", "D4", "D8", "O", "SO(3)", "O(3)", "Ih"}) {
    const auto group = make_group(name);
    const auto rho = group->is_finite() && group->order() < 20
                         ? regular_representation(group)
                         : spectral_regular_representation(group, 2);
    for (const auto& subgroup : subgroups(*group)) {
      CAPTURE(name, subgroup->name());
      const auto less = restricted(rho, subgroup);
      CHECK(less.group().name() == subgroup->name());
      for (const auto& h : elements_or_samples(*subgroup))
        CHECK(distance(less.at(h), rho.at(h)) < 1e-10);
    }
  }
  const auto o2 = make_group("O(2)");
  CHECK(irreps_of(restricted(irrep_representation(o2, "(1,3)"), make_group("D4"))) == "(1,1)");
  CHECK(irreps_of(restricted(irrep_representation(o2, "(1,2)"), make_group("C4"))) == "(2)(2)");
  CHECK(irreps_of(restricted(irrep_representation(o2, "(1,2)"), make_group("D1@45"))) ==
        "(0,0)(1,0)");
}

TEST_CASE("harmonics of polyhedral groups split as in the tables", "[groups]") {
  const auto group = make_group("O");
  const char* expected[] = {"A1", "T1", "ET2", "T1T2A2", "A1T1ET2", "T1T1ET2", "A1T1ET2T2A2"};
  for (int l = 0; l <= 6; ++l) {
    CAPTURE(l);
    CHECK(irreps_of(harmonic_representation(group, l)) == expected[l]);
  }
}

TEST_CASE("a restricted regular field falls into regular fields of the subgroup", "[groups]") {
  const auto d4 = regular_representation(make_group("D4"));
  const auto rotations = make_group("C4");
  const auto parts = disentangled(restricted(d4, rotations));
  REQUIRE(parts.size() == 2);
  for (const auto& part : parts) {
    CHECK(part.channels.size() == 4);
    CHECK(part.representation.is_permutation());
    CHECK(irreps_of(part.representation) == "(0)(1)(2)");
    for (const auto& g : rotations->elements())
      CHECK(distance(part.representation.at(g), d4.at(g)(part.channels, part.channels)) < 1e-12);
  }
  CHECK(disentangled(restricted(d4, make_group("C1"))).size() == 8);
  CHECK(disentangled(d4).size() == 1);
}

TEST_CASE("representations refuse what they are not made for", "[groups]") {
  const auto c4 = make_group("C4");
  CHECK_THROWS_WITH(regular_representation(make_group("SO(2)")), Contains("infinitely many"));
  CHECK_THROWS_WITH(
      direct_sum({trivial_representation(c4), trivial_representation(make_group("C8"))}),
      Contains("C4") && Contains("C8"));
  CHECK_THROWS_WITH(restricted(regular_representation(c4), make_group("C3")),
                    Contains("C3 is no subgroup of C4"));
  CHECK_THROWS_WITH(regular_representation(c4).at(rotation_by_angle(0.3)),
                    Contains("does not have"));
  const auto so2 = make_group("SO(2)");
  CHECK_THROWS_WITH(decomposed(
                        so2, 2, [&](const Element& g) { return so2->irrep("(3)").at(g); }, 2),
                    Contains("up to 2"));
}
