// Every group: axioms, irreps, characters, integrals; names and subgroups.
#include "tests/catch.h"

#include <cmath>
#include <set>

#include "core/error.h"
#include "groups/planar.h"
#include "groups/representation.h"

using namespace evariste;

namespace {

double distance(const Matrix& a, const Matrix& b) { return (a - b).cwiseAbs().maxCoeff(); }

/// A few elements: of small groups all.
std::vector<Element> some_elements(const Group& group, size_t count = 12) {
  if (group.is_finite() && group.elements().size() <= count) return group.elements();
  Draws draws(Stream(7).split(group.name()));
  std::vector<Element> out = group.generators();
  while (out.size() < count) out.push_back(group.sample(draws));
  return out;
}

int band_of(const Group& group) { return group.is_finite() ? group.largest_band() : 4; }

}  // namespace

TEST_CASE("the elements of every group form one", "[groups]") {
  for (const auto& group : builtin_groups()) {
    CAPTURE(group->name(), group->dimension());
    CHECK(group->contains(group->identity()));
    const auto elements = some_elements(*group);
    for (const auto& g : elements) {
      CHECK(distance(g * g.transpose(), group->identity()) < 1e-12);
      CHECK(group->contains(g));
      CHECK(group->contains(g.transpose()));
      for (const auto& h : elements) CHECK(group->contains(g * h));
    }
    if (!group->is_finite()) {
      CHECK_THROWS_WITH(group->elements(), Contains("infinitely many"));
      continue;
    }
    CHECK(distance(group->elements()[0], group->identity()) == 0);
    for (int64_t i = 0; i < group->order(); ++i)
      CHECK(group->index_of(group->elements()[static_cast<size_t>(i)]) == i);
    std::set<int64_t> reached = {0};  // by the generators
    for (size_t before = 0; before < reached.size();) {
      before = reached.size();
      for (const auto i : std::set<int64_t>(reached))
        for (const auto& g : group->generators())
          reached.insert(group->index_of(g * group->elements()[static_cast<size_t>(i)]));
    }
    CHECK(static_cast<int64_t>(reached.size()) == group->order());
  }
}

TEST_CASE("groups have the order of their name", "[groups]") {
  const std::pair<const char*, int64_t> orders[] = {{"C1", 1},  {"C5", 5},  {"D1", 2},  {"D4", 8},
                                                    {"T", 12},  {"O", 24},  {"I", 60},  {"Ci", 2},
                                                    {"Th", 24}, {"Oh", 48}, {"Ih", 120}};
  for (const auto& [name, order] : orders) {
    CAPTURE(name);
    CHECK(make_group(name)->order() == order);
  }
}

TEST_CASE("quarter turns and axis flips are exact", "[groups]") {
  const auto d4 = make_group("D4"), oh = make_group("Oh");
  for (const auto& g : d4->elements())
    for (Eigen::Index i = 0; i < 4; ++i) CHECK((g(i) == 0 || std::abs(g(i)) == 1));
  Element flip(2, 2);
  flip << -1, 0, 0, 1;  // (x, y) -> (-x, y): the default reflection flips an image left to right
  CHECK(d4->elements()[4] == flip);
  for (const auto& g : oh->elements())
    for (Eigen::Index i = 0; i < 9; ++i) CHECK((g(i) == 0 || std::abs(g(i)) == 1));
}

TEST_CASE("irreps are orthogonal homomorphisms with orthogonal characters", "[groups]") {
  for (const auto& group : builtin_groups()) {
    const auto irreps = group->irreps(band_of(*group));
    CHECK(irreps[0].is_trivial);
    const auto elements = some_elements(*group);
    for (const auto& irrep : irreps) {
      CAPTURE(group->name(), group->dimension(), irrep.name);
      CHECK(irrep.at(group->identity()).rows() == irrep.size);
      for (const auto& g : elements) {
        const Matrix of_g = irrep.at(g);
        CHECK(distance(of_g * of_g.transpose(), Matrix::Identity(irrep.size, irrep.size)) < 1e-12);
        for (const auto& h : elements) CHECK(distance(irrep.at(g * h), of_g * irrep.at(h)) < 1e-11);
      }
      CHECK(group->irrep(irrep.name).size == irrep.size);
    }
    const auto quadrature = group->quadrature(2 * band_of(*group));
    CHECK(quadrature.weights.sum() == Approx(1).epsilon(1e-13));
    for (const auto& a : irreps)
      for (const auto& b : irreps) {
        double sum = 0;
        for (size_t i = 0; i < quadrature.nodes.size(); ++i)
          sum += quadrature.weights[static_cast<Eigen::Index>(i)] *
                 a.at(quadrature.nodes[i]).trace() * b.at(quadrature.nodes[i]).trace();
        CAPTURE(group->name(), a.name, b.name);
        CHECK(std::abs(sum - (a.name == b.name ? a.endomorphisms : 0)) < 1e-12);
      }
  }
}

TEST_CASE("the irreps of a finite group are all there are", "[groups]") {
  for (const auto& group : builtin_groups()) {
    if (!group->is_finite()) continue;
    CAPTURE(group->name());
    int64_t sum = 0;
    for (const auto& irrep : group->irreps(group->largest_band()))
      sum += irrep.size * irrep.size / irrep.endomorphisms;
    CHECK(sum == group->order());
  }
}

TEST_CASE("samples of a group are spread by its Haar measure", "[groups]") {
  for (const auto& group : builtin_groups()) {
    CAPTURE(group->name(), group->dimension());
    Draws draws(Stream(3).split(group->name()));
    constexpr int kCount = 4000;
    const auto irreps = group->irreps(2);
    std::vector<double> means(irreps.size(), 0);
    for (int i = 0; i < kCount; ++i) {
      const auto g = group->sample(draws);
      for (size_t m = 0; m < irreps.size(); ++m) means[m] += irreps[m].at(g).trace() / kCount;
    }
    for (size_t m = 0; m < irreps.size();
         ++m)  // 0 but for the trivial one, deviation at most sqrt 2
      CHECK(std::abs(means[m] - (irreps[m].is_trivial ? 1 : 0)) < 5 * std::sqrt(2.0 / kCount));
  }
}

TEST_CASE("irreps have the matrices of their definition", "[groups]") {
  const PlanarGroup d8(8, true);
  const auto g = d8.element(3 * std::acos(-1.0) / 4, true);  // r = 3, s = 1
  const Matrix expected = rotation_by_turns(6, 8) * (Matrix(2, 2) << 1, 0, 0, -1).finished();
  CHECK(distance(d8.irrep("(1,2)").at(g), expected) < 1e-15);
  CHECK(d8.irrep("(1,0)").at(g)(0) == -1);
  CHECK(d8.irrep("(0,4)").at(g)(0) == -1);
  CHECK(d8.irrep("(1,4)").at(g)(0) == 1);
  std::string names;
  for (const auto& irrep : make_group("D4")->irreps(2)) names += irrep.name;
  CHECK(names == "(0,0)(1,0)(1,1)(1,2)(0,2)");
  names.clear();
  for (const auto& irrep : make_group("C4")->irreps(7)) names += irrep.name;
  CHECK(names == "(0)(1)(2)");
}

TEST_CASE("a group that is not known says what is", "[groups]") {
  for (const char* name : {"", "C", "C0", "E4", "C4x", "D4@", "D4@x", "SO(4)", "C-3"}) {
    CAPTURE(name);
    CHECK_THROWS_WITH(make_group(name), Contains("expected CN") && Contains(name));
  }
  CHECK_THROWS_WITH(make_group("I", 2), Contains("acts on space"));
  CHECK_THROWS_WITH(make_group("C4", 4), Contains("found 4"));
  CHECK_THROWS_WITH(make_group("D4")->irrep("(2)"), Contains("(0,0) (1,0)"));
  CHECK_THROWS_WITH(make_group("SO(2)")->irrep("(x)"), Contains("\"(1)\" ..."));
  CHECK_THROWS_WITH(make_group("O(3)")->irrep("3"), Contains("\"(0,1)\" ..."));
  CHECK(make_group("SO(2)")->irrep("(7)").frequency == 7);
  CHECK(make_group("O(3)")->irrep("(1,4)").size == 9);
}

TEST_CASE("subgroups of D4 up to conjugation, in order of inclusion", "[groups]") {
  std::string names;
  for (const auto& h : subgroups(*make_group("D4"))) names += h->name() + " ";
  CHECK(names == "C1 D1 D1@135 C2 C4 D2 D2@135 D4 ");
}

TEST_CASE("every subgroup is one, the whole group last", "[groups]") {
  for (const auto& group : builtin_groups()) {
    const auto list = subgroups(*group);
    CAPTURE(group->name(), group->dimension());
    REQUIRE(!list.empty());
    CHECK(list.back()->name() == group->name());
    for (size_t i = 0; i < list.size(); ++i) {
      CHECK(is_subgroup(*list[i], *group));
      for (size_t j = 0; j < i; ++j) CHECK_FALSE(is_subgroup(*list[i], *list[j]));
      if (group->is_finite()) CHECK(group->order() % list[i]->order() == 0);
    }
  }
}
