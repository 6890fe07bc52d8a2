#include "tests/catch.h"

#include <set>

#include "core/nearest.h"
#include "core/sha256.h"
#include "core/stream.h"

using namespace evariste;

TEST_CASE("the nearest name is found, and none is invented", "[core]") {
  const std::vector<std::string> known = {"epochs", "lr", "momentum"};
  CHECK(nearest_name("epoch", known) == "epochs");
  CHECK(nearest_name("lrr", known) == "lr");
  CHECK(nearest_name("rl", known) == "lr");
  CHECK(nearest_name("zebra", known).empty());
  CHECK(unknown_name("key", "momentun", known) ==
        "unknown key \"momentun\"; did you mean \"momentum\"? known: epochs, lr, momentum");
}

TEST_CASE("SHA-256 gives the published digests, in any chunking", "[core]") {
  CHECK(sha256_hex("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256_hex("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const std::string text(1000, 'x');
  Sha256 hash;
  for (size_t i = 0, step = 1; i < text.size(); i += step, ++step)
    hash.update(text.data() + i, std::min(step, text.size() - i));
  CHECK(hash.hex() == sha256_hex(text));
}

TEST_CASE("streams depend on their path only", "[core]") {
  const Stream root(711);
  CHECK(root.split("data").split(3).key() == Stream(711).split("data").split(3).key());
  std::set<uint64_t> keys;
  for (uint64_t i = 0; i < 1000; ++i) {
    keys.insert(root.split(i).key());
    keys.insert(root.split("a").split(i).key());
  }
  CHECK(keys.size() == 2000);
}

TEST_CASE("draws have the moments of their distributions", "[core]") {
  Draws draws(Stream(1));
  const int n = 200000;
  double uniform = 0, square = 0, normal = 0, variance = 0;
  for (int i = 0; i < n; ++i) {
    const double u = draws.uniform(), z = draws.normal();
    uniform += u, square += u * u, normal += z, variance += z * z;
  }
  CHECK(uniform / n == Approx(0.5).margin(5 * std::sqrt(1.0 / 12 / n)));
  CHECK(square / n == Approx(1.0 / 3).margin(5 * std::sqrt(4.0 / 45 / n)));
  CHECK(normal / n == Approx(0).margin(5 / std::sqrt(n)));
  CHECK(variance / n == Approx(1).margin(5 * std::sqrt(2.0 / n)));
  std::array<int, 7> counts{};
  for (int i = 0; i < 7000; ++i) ++counts[draws.below(7)];
  for (const int c : counts) CHECK(c == Approx(1000).margin(5 * std::sqrt(7000 * 6.0 / 49)));
}
