// What the tasks make of a data set.
#include "experiments/run/tasks.h"

#include "core/error.h"
#include "tests/catch.h"

using namespace evariste;

namespace {

Dataset digits(Split split) {
  const auto x = (7 * torch::arange(40 * 28 * 28) % 251).to(torch::kUInt8).view({40, 1, 28, 28});
  return {"mnist", x, torch::arange(40, torch::kInt64) % 10, 10, {}, split, kMnistNormalisation};
}

RunConfig config(int64_t train, int64_t test) {
  RunConfig out;
  out.data.train = train;
  out.data.test = test;
  return out;
}

}  // namespace

TEST_CASE("a task takes a random part for training and the first samples for tests", "[run]") {
  const auto train = task_images(config(15, 20), "upright", digits(Split::Train), {1, 28, 28});
  CHECK(train.size() == 15);
  CHECK_FALSE(torch::equal(train.index, torch::arange(15, torch::kInt64)));
  CHECK(torch::equal(train.y, train.index % 10));
  const auto fewer = task_images(config(10, 20), "upright", digits(Split::Train), {1, 28, 28});
  CHECK(torch::equal(fewer.x, train.x.narrow(0, 0, 10)));
  const auto test = task_images(config(15, 20), "upright", digits(Split::Test), {1, 14, 14});
  CHECK(torch::equal(test.index, torch::arange(20, torch::kInt64)));
  CHECK(test.x.sizes() == torch::IntArrayRef({20, 1, 14, 14}));
}

TEST_CASE("pairs are made from all digits, as many as asked for", "[run]") {
  CHECK(task_outputs("pairs-O2", "mnist") == 100);
  CHECK(task_outputs("turn", "mnist") == 40);
  const auto pairs = task_images(config(90, 20), "pairs-D4", digits(Split::Train), {1, 57, 57});
  CHECK(pairs.x.sizes() == torch::IntArrayRef({90, 1, 57, 57}));
  CHECK(pairs.classes == 100);
  CHECK(pairs.x.scalar_type() == torch::kFloat32);
  auto as_pixels = config(90, 20);
  as_pixels.data.scaling = "pixel";
  const auto x = task_images(as_pixels, "pairs-D4", digits(Split::Train), {1, 56, 56}).x;
  CHECK(x.min().item<float>() == 0);
  CHECK(x.max().item<float>() == Approx(250.0 / 255));
}

TEST_CASE("volumes are taken upright, resized to what the network takes", "[run]") {
  auto set = digits(Split::Test);
  set.name = "organmnist3d";
  set.x = set.x.reshape({4, 1, 14, 28, 20}).narrow(3, 0, 14).narrow(4, 0, 14).contiguous();
  set.y = torch::arange(4, torch::kInt64);
  auto of_volumes = config(4, 3);
  of_volumes.data.set = "organmnist3d";
  CHECK(task_images(of_volumes, "upright", set, {1, 14, 14, 14}).x.sizes() ==
        torch::IntArrayRef({3, 1, 14, 14, 14}));
  const auto coarse = task_images(of_volumes, "upright", set, {1, 7, 7, 7}).x;
  const auto fine = task_images(of_volumes, "upright", set, {1, 14, 14, 14}).x;
  // Without antialias a voxel of half the resolution is the mean of the eight it covers.
  CHECK(coarse[2][0][3][1][6].item<float>() ==
        Approx(fine[2][0].narrow(0, 6, 2).narrow(1, 2, 2).narrow(2, 12, 2).mean().item<float>())
            .margin(1e-5));
  CHECK_THROWS_AS(expect_input("rotated", "organmnist3d", {1, 28, 28, 28}), UsageError);
  CHECK_THROWS_AS(expect_input("pairs-C4", "shapes", {1, 16, 16, 16}), UsageError);
  CHECK_THROWS_AS(expect_input("upright", "organmnist3d", {1, 28, 28}), UsageError);
  CHECK_NOTHROW(expect_input("rotated", "shapes", {1, 16, 16, 16}));
}

TEST_CASE("targets are numbers: a Gaussian likelihood and as many outputs", "[run]") {
  CHECK(is_regression("angle"));
  CHECK_FALSE(is_regression("turn"));
  CHECK(task_outputs("angle", "mnist") == 2);
  CHECK(task_outputs("norm", "vectors") == 1);
  CHECK(task_outputs("norm-cosine", "vectors") == 2);
  TrainConfig train;
  train.noise.start = 0.7;
  CHECK(dynamic_cast<Gaussian&>(*task_likelihood("cosine", train)).noise() == 0.7);
  CHECK(task_likelihood("upright", train)->name() == "classification");

  const auto angles = task_images(config(15, 20), "angle", digits(Split::Train), {1, 14, 14});
  CHECK(angles.y.sizes() == torch::IntArrayRef({15, 2}));
  CHECK(angles.x.scalar_type() == torch::kFloat32);
  auto of_vectors = config(30, 20);
  of_vectors.data.set = "vectors";
  const auto raw = load_dataset("vectors", "/nowhere", Split::Train);
  const auto cosine = task_images(of_vectors, "cosine", raw, {2, 1, 1});
  CHECK(cosine.y.sizes() == torch::IntArrayRef({30, 1}));
  CHECK(torch::equal(cosine.x, raw.x.index_select(0, cosine.index)));
  CHECK_THROWS_WITH(expect_input("norm", "mnist", {1, 28, 28}),
                    Catch::Matchers::Contains("the points of vectors, not for mnist"));
  CHECK_THROWS_WITH(expect_input("upright", "vectors", {2, 1, 1}),
                    Catch::Matchers::Contains("images, not for the points of vectors"));
  CHECK_THROWS_WITH(expect_input("norm", "vectors", {1, 28, 28}),
                    Catch::Matchers::Contains("[2, 1, 1] for the points of norm"));
}
