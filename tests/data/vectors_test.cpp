#include "data/vectors.h"

#include "core/error.h"
#include "tests/catch.h"

using namespace evariste;

TEST_CASE("vectors are uniform in a square, and their targets are length and cosine", "[data]") {
  const auto train = load_dataset("vectors", "/nowhere", Split::Train);
  const auto test = load_dataset("vectors", "/nowhere", Split::Test);
  CHECK(train.x.sizes() == torch::IntArrayRef({10000, 2, 1, 1}));
  CHECK(test.size() == 2000);
  CHECK_FALSE(torch::equal(train.x.narrow(0, 0, 2000), test.x));
  const auto v = train.x.flatten(1);
  CHECK(v.abs().max().item<float>() <= 1);
  // 10 000 draws: the mean of a coordinate has a standard deviation of 0.0058, that of its square
  // (1/3) of 0.003.
  CHECK(v.mean(0).abs().max().item<float>() < 0.025);
  CHECK(v.square().mean().item<float>() == Approx(1.0 / 3).margin(0.012));
  const auto length = v.norm(2, 1);
  CHECK(torch::allclose(train.y.select(1, 0), length, 1e-6, 1e-6));
  CHECK(torch::allclose(train.y.select(1, 1) * length, v.select(1, 0), 1e-5, 1e-6));
  const auto cosine = vector_targets(train, {1});
  CHECK(cosine.classes == 1);
  CHECK(torch::equal(cosine.y.squeeze(1), train.y.select(1, 1)));
  auto other = train;
  other.name = "mnist";
  CHECK_THROWS_AS(vector_targets(other, {0}), UsageError);
}
