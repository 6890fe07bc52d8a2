// Kernel spaces: dimensions against an independent table, symmetry, norms, spans, sampled values.
#include "tests/catch.h"

#include "core/error.h"
#include "groups/grid_action.h"
#include "groups/kernel_basis.h"
#include "groups/wigner.h"

using namespace evariste;

namespace {

KernelBasis basis_of(const Representation& in, const Representation& out, int size,
                     int band = kEquivariant) {
  return kernel_basis(in, out, size, default_rings(size, in.group().dimension()), 1, band);
}

Representation named(const GroupPtr& group, const std::string& name) {
  if (name == "trivial") return trivial_representation(group);
  if (name == "regular") return regular_representation(group);
  if (name.starts_with("/")) return quotient_representation(group, *make_group(name.substr(1)));
  return irrep_representation(group, name);
}

/// Sizes for kernels of 1, 3, 5, 7 (as many as `expected` has).
void check_sizes(const char* group, const char* in, const char* out,
                 const std::vector<int>& expected) {
  const auto g = make_group(group);
  const auto from = named(g, in), to = named(g, out);
  for (size_t k = 0; k < expected.size(); ++k) {
    CAPTURE(group, in, out, 2 * k + 1);
    CHECK(basis_of(from, to, static_cast<int>(2 * k + 1)).size() == expected[k]);
  }
}

/// (h.K) of every row, for h that moves pixels to pixels.
Matrix turned(const KernelBasis& basis, const Representation& in, const Representation& out,
              const Element& h, int size) {
  const auto index = grid_action(h, size);
  REQUIRE(index);
  const auto points = static_cast<Eigen::Index>(index->size());
  const Matrix left = out.at(h), right = in.at(h);
  Matrix result = Matrix::Zero(basis.values.rows(), basis.values.cols());
  for (Eigen::Index n = 0; n < basis.values.rows(); ++n)
    for (Eigen::Index p = 0; p < points; ++p) {
      Matrix k(out.size(), in.size());
      for (int o = 0; o < out.size(); ++o)
        for (int i = 0; i < in.size(); ++i)
          k(o, i) =
              basis.values(n, (o * in.size() + i) * points + (*index)[static_cast<size_t>(p)]);
      k = left * k * right.transpose();
      for (int o = 0; o < out.size(); ++o)
        for (int i = 0; i < in.size(); ++i) result(n, (o * in.size() + i) * points + p) = k(o, i);
    }
  return result;
}

}  // namespace

TEST_CASE("scalar kernels without constraint", "[kernels]") {
  const int plane[] = {1, 6, 11, 18, 31}, space[] = {1, 10, 19, 35};
  for (int k = 0; k < 5; ++k) CHECK(unconstrained_size(default_rings(2 * k + 1), 2) == plane[k]);
  for (int k = 0; k < 4; ++k) CHECK(unconstrained_size(default_rings(2 * k + 1, 3), 3) == space[k]);
  CHECK(default_rings(7).degrees == std::vector<int>{0, 2, 3, 2});
  CHECK(default_rings(9).degrees == std::vector<int>{0, 2, 3, 6, 2});
  CHECK(default_rings(5, 2, 2).radii == std::vector<double>{0, 2, 4});
  CHECK_THROWS_WITH(default_rings(2), Contains("odd size, found 2"));
}

TEST_CASE("equivariant kernels have the dimensions of the table", "[kernels]") {
  for (const char* group : {"C2", "C5", "D3", "D4", "C16"}) {
    check_sizes(group, "trivial", "regular", {1, 6, 11, 18});
    check_sizes(group, "regular", "trivial", {1, 6, 11, 18});
  }
  check_sizes("C1", "trivial", "trivial", {1, 6, 11, 18});
  check_sizes("C2", "trivial", "trivial", {1, 4, 7, 10});
  check_sizes("C2", "regular", "regular", {2, 12, 22, 36});
  check_sizes("C3", "trivial", "trivial", {1, 2, 3, 6});
  check_sizes("C3", "regular", "regular", {3, 18, 33, 54});
  check_sizes("C3", "trivial", "(1)", {0, 4, 8, 12});
  check_sizes("C3", "(1)", "(1)", {2, 8, 14, 24});
  check_sizes("C4", "trivial", "trivial", {1, 2, 3, 4});
  check_sizes("C4", "(2)", "(2)", {1, 2, 3, 4});
  check_sizes("C4", "regular", "regular", {4, 24, 44, 72});
  check_sizes("C4", "trivial", "(1)", {0, 2, 4, 8});
  check_sizes("C4", "(1)", "(2)", {0, 2, 4, 8});
  check_sizes("C4", "(1)", "(1)", {2, 8, 14, 20});
  check_sizes("C4", "/C2", "trivial", {1, 4, 7, 10});
  check_sizes("C4", "/C2", "regular", {2, 12, 22, 36});
  check_sizes("C8", "regular", "regular", {8, 48, 88, 144});
  check_sizes("C8", "trivial", "(1)", {0, 2, 4, 6});
  check_sizes("C8", "(1)", "(1)", {2, 6, 10, 14});
  check_sizes("C16", "regular", "regular", {16, 96});
  check_sizes("D1", "trivial", "trivial", {1, 4, 7, 11});
  check_sizes("D1", "regular", "regular", {2, 12, 22, 36});
  check_sizes("D2", "trivial", "trivial", {1, 3, 5, 7});
  check_sizes("D2", "regular", "regular", {4, 24, 44, 72});
  check_sizes("D4", "trivial", "trivial", {1, 2, 3, 4});
  check_sizes("D4", "regular", "regular", {8, 48, 88});
  check_sizes("D4", "trivial", "(1,0)", {0, 0, 0, 0});
  check_sizes("D4", "trivial", "(1,1)", {0, 1, 2, 4});
  check_sizes("D4", "(1,1)", "(1,1)", {1, 4, 7, 10});
  check_sizes("D4", "/C4", "trivial", {1, 2, 3, 4});
  check_sizes("D4", "/D1", "regular", {4, 24, 44, 72});
  check_sizes("D8", "regular", "regular", {16, 96});
  check_sizes("SO(2)", "(0)", "(0)", {1, 2, 3, 4});
  for (const auto& [a, b] : std::vector<std::pair<const char*, const char*>>{{"(0)", "(1)"},
                                                                             {"(1)", "(0)"},
                                                                             {"(0)", "(2)"},
                                                                             {"(2)", "(0)"},
                                                                             {"(1)", "(3)"},
                                                                             {"(3)", "(1)"},
                                                                             {"(2)", "(3)"},
                                                                             {"(3)", "(2)"}})
    check_sizes("SO(2)", a, b, {0, 2, 4, 6});
  check_sizes("SO(2)", "(1)", "(1)", {2, 6, 10, 14});
  check_sizes("SO(2)", "(1)", "(2)", {0, 2, 4, 8});
  check_sizes("SO(2)", "(2)", "(1)", {0, 2, 4, 8});
  check_sizes("SO(2)", "(2)", "(2)", {2, 4, 6, 8});
  check_sizes("SO(2)", "(3)", "(3)", {2, 4, 6, 8});
  check_sizes("SO(2)", "(0)", "(3)", {0, 0, 0, 2});
  for (const char* same : {"(0,0)", "(1,0)", "(1,2)", "(1,3)"})
    check_sizes("O(2)", same, same, {1, 2, 3, 4});
  check_sizes("O(2)", "(0,0)", "(1,0)", {0, 0, 0, 0});
  for (const char* one : {"(0,0)", "(1,0)"}) {
    check_sizes("O(2)", one, "(1,1)", {0, 1, 2, 3});
    check_sizes("O(2)", "(1,2)", one, {0, 1, 2, 3});
    check_sizes("O(2)", one, "(1,3)", {0, 0, 0, 1});
  }
  check_sizes("O(2)", "(1,1)", "(1,3)", {0, 1, 2, 3});
  check_sizes("O(2)", "(1,2)", "(1,3)", {0, 1, 2, 3});
  check_sizes("O(2)", "(1,1)", "(1,1)", {1, 3, 5, 7});
  check_sizes("O(2)", "(1,1)", "(1,2)", {0, 1, 2, 4});
}

TEST_CASE("equivariant kernels in space have the dimensions of the table", "[kernels]") {
  check_sizes("SO(3)", "(0)", "(0)", {1, 2, 3});
  check_sizes("SO(3)", "(0)", "(1)", {0, 1, 2});
  check_sizes("SO(3)", "(0)", "(3)", {0, 0, 0});
  check_sizes("SO(3)", "(1)", "(1)", {1, 4, 7});
  check_sizes("SO(3)", "(1)", "(2)", {0, 2, 4});
  check_sizes("SO(3)", "(1)", "(3)", {0, 1, 2});
  check_sizes("SO(3)", "(2)", "(2)", {1, 4, 7});
  check_sizes("SO(3)", "(2)", "(3)", {0, 2, 4});
  check_sizes("SO(3)", "(3)", "(3)", {1, 4, 7});
  check_sizes("O(3)", "(0,0)", "(1,1)", {0, 1, 2});
  check_sizes("O(3)", "(0,0)", "(0,1)", {0, 0, 0});
  check_sizes("O(3)", "(0,0)", "(0,2)", {0, 1, 2});
  check_sizes("O(3)", "(1,0)", "(0,1)", {0, 1, 2});
  check_sizes("O(3)", "(0,1)", "(0,1)", {1, 3, 5});
  check_sizes("O(3)", "(1,1)", "(1,1)", {1, 3, 5});
  check_sizes("O(3)", "(0,1)", "(1,1)", {0, 1, 2});
  check_sizes("O(3)", "(0,2)", "(0,2)", {1, 3, 5});
  check_sizes("O", "trivial", "trivial", {1, 2, 3});
  check_sizes("O", "trivial", "regular", {1, 10, 19});
  check_sizes("O", "regular", "regular", {24, 240});
}

TEST_CASE("kernels turn by the irrep of their part, at every element that keeps the grid",
          "[kernels]") {
  const std::tuple<const char*, const char*, const char*> cases[] = {
      {"C4", "regular", "regular"}, {"D4", "trivial", "regular"}, {"D4", "(1,1)", "(1,2)"},
      {"D4@45", "(1,1)", "(1,1)"},  {"C8", "(1)", "(3)"},         {"SO(2)", "(1)", "(2)"},
      {"O(2)", "(1,1)", "(1,1)"},   {"O(2)", "(1,0)", "(1,2)"},   {"O", "T1", "E"},
      {"SO(3)", "(1)", "(2)"},      {"O(3)", "(1,1)", "(0,1)"},   {"T", "E", "T"}};
  for (const auto& [name, in, out] : cases)
    for (const int band : {kEquivariant, 0, 2, 4}) {
      const auto group = make_group(name);
      const auto from = named(group, in), to = named(group, out);
      const int size = group->dimension() == 2 ? 5 : 3;
      const auto basis = basis_of(from, to, size, band);
      int of_parts = 0;
      for (const auto& part : basis.parts) of_parts += part.count();
      CAPTURE(name, in, out, band);
      CHECK(of_parts == basis.size());
      const auto grid = make_group(group->dimension() == 2 ? "D4" : "Oh");
      for (const auto& h : grid->elements()) {
        if (!group->contains(h)) continue;
        const auto found = turned(basis, from, to, h, size);
        Matrix expected = basis.values;
        for (const auto& part : basis.parts) {
          if (band == kEquivariant) CHECK(part.irrep.is_trivial);
          const Matrix psi = part.irrep.at(h);
          for (int c = 0; c < part.copies; ++c) {  // h.B_a = sum_b psi_ba B_b
            const auto at = part.offset + c * part.irrep.size;
            expected.middleRows(at, part.irrep.size) =
                psi.transpose() * basis.values.middleRows(at, part.irrep.size);
          }
        }
        CHECK((found - expected).cwiseAbs().maxCoeff() < 1e-12);
      }
    }
}

TEST_CASE("with every irrep the basis is the whole space of kernels", "[kernels]") {
  for (const auto& [name, in, out] :
       std::vector<std::tuple<const char*, const char*, const char*>>{{"SO(2)", "(1)", "(1)"},
                                                                      {"O(2)", "(1,1)", "(1,2)"},
                                                                      {"D4", "(1,1)", "regular"},
                                                                      {"C3", "(1)", "regular"},
                                                                      {"SO(3)", "(1)", "(1)"},
                                                                      {"O", "T1", "T2"}}) {
    CAPTURE(name, in, out);
    const auto group = make_group(name);
    const auto from = named(group, in), to = named(group, out);
    const auto basis = basis_of(from, to, 3, 9);
    const auto scalars =
        unconstrained_size(default_rings(3, group->dimension()), group->dimension());
    CHECK(basis.size() == from.size() * to.size() * scalars);
    CHECK(basis.values.colPivHouseholderQr().rank() == basis.size());
  }
}

TEST_CASE("isotypic multiplicities of the kernels between vectors", "[kernels]") {
  const auto o2 = make_group("O(2)"), so2 = make_group("SO(2)");
  const auto copies = [](const KernelBasis& basis) {
    std::string out;
    for (const auto& part : basis.parts) out += fmt::format("{}:{} ", part.irrep.name, part.copies);
    return out;
  };
  const auto vector = irrep_representation(o2, "(1,1)");
  CHECK(copies(basis_of(vector, vector, 3, 4)) ==
        "(0,0):3 (1,0):3 (1,1):3 (1,2):4 (1,3):1 (1,4):1 ");
  const auto turned_vector = irrep_representation(so2, "(1)");
  CHECK(copies(basis_of(turned_vector, turned_vector, 3, 4)) == "(0):6 (1):3 (2):4 (3):1 (4):1 ");
  const int two[] = {4, 20, 36}, four[] = {4, 24, 44}, from_scalar[] = {2, 10, 18};
  for (int k = 0; k < 3; ++k) {
    CHECK(basis_of(vector, vector, 2 * k + 1, 2).size() == two[k]);
    CHECK(basis_of(vector, vector, 2 * k + 1, 4).size() == four[k]);
    CHECK(basis_of(trivial_representation(o2), vector, 2 * k + 1, 2).size() == from_scalar[k]);
    // Without the duplicates of the public code, which enters a harmonic once for each product.
    CHECK(basis_of(turned_vector, turned_vector, 2 * k + 1, 2).size() == two[k]);
  }
}

TEST_CASE("a copy has the norm of its irreps", "[kernels]") {
  for (const char* name : {"C4", "D4", "SO(2)", "O(2)", "SO(3)"}) {
    const auto group = make_group(name);
    const auto rho = spectral_regular_representation(group, group->dimension() == 2 ? 2 : 1);
    for (const int band : {kEquivariant, 2}) {
      CAPTURE(name, band);
      const auto basis = basis_of(rho, rho, 3, band);
      for (const auto& part : basis.parts)
        for (int c = 0; c < part.copies; ++c) {
          const auto at = part.offset + c * part.irrep.size;
          const auto output = static_cast<size_t>(basis.outputs[static_cast<size_t>(at)]);
          CHECK(basis.values.middleRows(at, part.irrep.size).squaredNorm() ==
                Approx(rho.irreps()[output].size * part.irrep.size).epsilon(1e-12));
        }
    }
  }
}

TEST_CASE("sampled kernels have the published values", "[kernels]") {
  const auto so2 = make_group("SO(2)");
  const auto scalar = trivial_representation(so2);
  const auto three = basis_of(scalar, scalar, 3);
  REQUIRE(three.size() == 2);
  const double ring[] = {.252423, .431501, .252423, .431501, .018959, .431501};
  for (int p = 0; p < 6; ++p) {
    CHECK(three.values(1, p) == Approx(ring[p]).margin(2e-6));
    CHECK(three.values(0, p) == Approx(p == 4 ? 1 : 0).margin(1e-12));
  }
  const auto five = basis_of(scalar, scalar, 5);
  const double second[] = {.003662, .045571, .094861, .045571, .003662, .045571, .299766, .380428};
  const double third[] = {.036707, .263350, .313449, .263350, .036707};
  for (int p = 0; p < 8; ++p) CHECK(five.values(1, p) == Approx(second[p]).margin(2e-6));
  for (int p = 0; p < 5; ++p) CHECK(five.values(2, p) == Approx(third[p]).margin(2e-6));
  // From a scalar to a vector: the published kernel lies in the span.
  const auto basis = basis_of(scalar, irrep_representation(so2, "(1)"), 3);
  Vector expected(18);
  expected << .252468, 0, -.252468, .610344, 0, -.610344, .252468, 0, -.252468,  //
      -.252468, -.610344, -.252468, 0, 0, 0, .252468, .610344, .252468;
  const Matrix q =
      basis.values.transpose().householderQr().householderQ() * Matrix::Identity(18, basis.size());
  CHECK((q * (q.transpose() * expected) - expected).norm() < 5e-6);
}

TEST_CASE("equivariant kernels are the null space of the constraint", "[kernels]") {
  // On coefficients [out, in, harmonic] of one ring: rho_out (x) rho_in (x) Z - 1, stacked over the
  // generators.
  for (const auto& [name, in, out] :
       std::vector<std::tuple<const char*, const char*, const char*>>{{"SO(2)", "(1)", "(2)"},
                                                                      {"O(2)", "(1,1)", "(1,1)"},
                                                                      {"C3", "(1)", "(1)"},
                                                                      {"D4", "(1,1)", "(1,1)"},
                                                                      {"D3", "(1,1)", "regular"}}) {
    const auto group = make_group(name);
    const auto from = named(group, in), to = named(group, out);
    for (int f = 0; f <= 4; ++f) {
      CAPTURE(name, in, out, f);
      Rings ring{{2.0}, {0.6}, {f}}, below{{2.0}, {0.6}, {f - 1}};
      const auto generators = group->generators();
      const auto harmonics = group->harmonics(f, group->identity()).rows();
      const auto size = to.size() * from.size() * harmonics;
      Matrix constraint(size * static_cast<Eigen::Index>(generators.size()), size);
      for (size_t g = 0; g < generators.size(); ++g) {
        const Matrix a = to.at(generators[g]), b = from.at(generators[g]),
                     z = group->harmonics(f, generators[g]);
        for (Eigen::Index r = 0; r < size; ++r)
          for (Eigen::Index c = 0; c < size; ++c) {
            const auto inner = from.size() * harmonics;
            constraint(static_cast<Eigen::Index>(g) * size + r, c) =
                a(r / inner, c / inner) * b(r % inner / harmonics, c % inner / harmonics) *
                    z(r % harmonics, c % harmonics) -
                (r == c ? 1 : 0);
          }
      }
      const Vector singular = constraint.jacobiSvd().singularValues();
      const auto null =
          std::count_if(singular.begin(), singular.end(), [](double s) { return s < 1e-9; });
      const auto all = kernel_basis(from, to, 7, ring).size();
      const auto fewer = f == 0 ? 0 : kernel_basis(from, to, 7, below).size();
      CHECK(all - fewer == null);
    }
  }
}

TEST_CASE("kernels between representations of two groups are refused", "[kernels]") {
  CHECK_THROWS_WITH(basis_of(trivial_representation(make_group("C4")),
                             trivial_representation(make_group("C8")), 3),
                    Contains("C4") && Contains("C8"));
}

TEST_CASE("a quarter turn moves the pixels of an image counter-clockwise", "[kernels]") {
  const auto index = grid_action(rotation_by_turns(1, 4), 3);
  REQUIRE(index);
  // As torch.rot90: row 0 of the result is the last column, from its top.
  CHECK(*index == std::vector<int64_t>{2, 5, 8, 1, 4, 7, 0, 3, 6});
  CHECK_FALSE(grid_action(rotation_by_turns(1, 8), 3));
  const auto oh = make_group("Oh");
  for (const auto& g : oh->elements())
    for (const int size : {2, 3}) {
      const auto there = grid_action(g, size), back = grid_action(g.transpose(), size);
      REQUIRE(there);
      for (size_t p = 0; p < there->size(); ++p)
        CHECK((*there)[static_cast<size_t>((*back)[p])] == static_cast<int64_t>(p));
    }
}
