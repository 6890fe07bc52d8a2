// The symmetric group.
#include "groups/permutation.h"

#include "tests/catch.h"

using namespace evariste;

TEST_CASE("permutations of four things form a group", "[groups]") {
  const auto all = Permutation::all(4);
  CHECK(all.size() == 24);
  CHECK(all[0] == Permutation::identity(4));
  int even = 0;
  for (const auto& g : all) {
    CHECK(g * g.inverse() == all[0]);
    even += g.sign() > 0;
    for (const auto& h : all) {
      CHECK(std::find(all.begin(), all.end(), g * h) != all.end());
      CHECK((g * h).sign() == g.sign() * h.sign());
      for (int64_t i = 0; i < 4; ++i) CHECK((g * h)[i] == g[h[i]]);
      // Acting one after the other is acting by the product.
      const double x[] = {3, 1, 4, 1.5};
      for (size_t j = 0; j < 4; ++j) {
        const auto after_h = [&](int64_t k) {
          return x[static_cast<size_t>(h.index()[static_cast<size_t>(k)])];
        };
        CHECK(after_h(g.index()[j]) == x[static_cast<size_t>((g * h).index()[j])]);
      }
    }
  }
  CHECK(even == 12);
}

TEST_CASE("every permutation is drawn equally often", "[groups]") {
  Draws draws(Stream(1));
  const auto all = Permutation::all(3);
  std::vector<int> count(all.size(), 0);
  for (int i = 0; i < 6000; ++i) {
    const auto g = Permutation::sample(3, draws);
    ++count[static_cast<size_t>(std::find(all.begin(), all.end(), g) - all.begin())];
  }
  for (const int c : count) CHECK(std::abs(c - 1000) < 150);  // five standard deviations
}

TEST_CASE("a list that is no permutation is refused", "[groups]") {
  CHECK_THROWS_WITH(Permutation({0, 2, 2}), Contains("found 2 at place 2"));
  CHECK_THROWS_WITH(Permutation({0, 3, 1}), Contains("found 3"));
  CHECK_THROWS_WITH(Permutation::all(11), Contains("at most 10"));
  CHECK_THROWS_WITH(Permutation::identity(2) * Permutation::identity(3), Contains("2 and 3"));
}
