#include "data/transform.h"

#include <torch/nn/functional.h>
#include "tests/data/synthetic_files.h"

using namespace evariste;
namespace fs = std::filesystem;

namespace {

torch::Tensor random_images(int64_t n, int64_t channels = 1, int64_t side = 28) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(7);
  return torch::randint(0, 256, {n, channels, side, side}, generator, torch::kUInt8);
}

Dataset random_digits(int64_t n) {
  return {"random", random_images(n), torch::arange(n) % 10, 10,
          {},       Split::Train,     kMnistNormalisation};
}

/// The definition, word for word: paste into 56 x 56, shrink with torch, round.
torch::Tensor paste_then_shrink(const torch::Tensor& x, const torch::Tensor& q) {
  namespace F = torch::nn::functional;
  auto canvas = torch::zeros({x.size(0), 1, 56, 56});
  for (int64_t n = 0; n < x.size(0); ++n) {
    const auto k = q[n].item<int64_t>();
    const int64_t left = (k == 1 || k == 3) ? 28 : 0, top = (k == 2 || k == 3) ? 28 : 0;
    canvas[n][0].narrow(0, top, 28).narrow(1, left, 28).copy_(x[n][0]);
  }
  return F::interpolate(canvas, F::InterpolateFuncOptions()
                                    .size(std::vector<int64_t>{32, 32})
                                    .mode(torch::kBilinear)
                                    .align_corners(false)
                                    .antialias(false))
      .round()
      .to(torch::kUInt8);
}

}  // namespace

TEST_CASE("digits in quadrants equal paste, shrink and round, bit for bit", "[data][quadrant]") {
  const auto x = random_images(40);
  const auto q = torch::arange(40) % 4;
  CHECK(torch::equal(place_in_quadrants(x, q), paste_then_shrink(x, q)));
}

TEST_CASE("quadrants differ by a shift of exactly 16 pixels", "[data][quadrant]") {
  const auto x = random_images(9);
  const auto at = [&](int64_t q) {
    return place_in_quadrants(x, torch::full({9}, q, torch::kInt64));
  };
  const auto origin = at(0);
  CHECK(origin.narrow(2, 0, 16).narrow(3, 0, 16).count_nonzero().item<int64_t>() > 9 * 200);
  CHECK(origin.narrow(2, 16, 16).count_nonzero().item<int64_t>() == 0);
  CHECK(origin.narrow(3, 16, 16).count_nonzero().item<int64_t>() == 0);
  CHECK(torch::equal(at(1), origin.roll({16}, {3})));
  CHECK(torch::equal(at(2), origin.roll({16}, {2})));
  CHECK(torch::equal(at(3), origin.roll({16, 16}, {2, 3})));
}

TEST_CASE("both labels share the images; the quadrant is in the label only", "[data][quadrant]") {
  const auto mnist = random_digits(200);
  const Stream stream(3);
  const auto digit = quadrant_mnist(mnist, QuadrantLabel::Digit, stream);
  const auto quadrant = quadrant_mnist(mnist, QuadrantLabel::Quadrant, stream);
  CHECK(torch::equal(digit.x, quadrant.x));
  CHECK(torch::equal(digit.y, mnist.y));
  CHECK(torch::equal(quadrant.y % 10, mnist.y));
  CHECK(digit.classes == 10);
  CHECK(quadrant.classes == 40);
  CHECK(quadrant.name == "quadrant(random)");

  // The label says where the digit is.
  const auto q = quadrant.y.div(10, "floor");
  CHECK(torch::equal(digit.x, normalise(place_in_quadrants(mnist.x, q), kMnistNormalisation)));
  CHECK(torch::bincount(q, {}, 4).min().item<int64_t>() > 25);
  CHECK_FALSE(
      torch::equal(quadrant.y, quadrant_mnist(mnist, QuadrantLabel::Quadrant, Stream(4)).y));
}

TEST_CASE("a sample's quadrant does not depend on order or company", "[data][quadrant]") {
  const auto mnist = random_digits(100);
  const Stream stream(3);
  const auto whole = quadrant_mnist(mnist, QuadrantLabel::Quadrant, stream);
  const auto rows = torch::tensor({70, 3, 99, 0}, torch::kInt64);
  const auto before = quadrant_mnist(subset(mnist, rows), QuadrantLabel::Quadrant, stream);
  const auto after = subset(whole, rows);
  CHECK(torch::equal(before.x, after.x));
  CHECK(torch::equal(before.y, after.y));
}

TEST_CASE("the reference quadrants are torch's draws", "[data][quadrant]") {
  // torch 2.11: torch.manual_seed(1001); torch.randint(0, 4, (12,)); then 1000 for test.
  auto mnist = random_digits(12);
  const auto quadrants = [&](Split split) {
    mnist.split = split;
    return quadrant_mnist(mnist, QuadrantLabel::Quadrant, Stream(1), DrawScheme::Reference)
        .y.div(10, "floor");
  };
  CHECK(torch::equal(quadrants(Split::Train),
                     torch::tensor({1, 1, 1, 2, 2, 3, 0, 0, 2, 3, 3, 1}, torch::kInt64)));
  CHECK(torch::equal(quadrants(Split::Test),
                     torch::tensor({3, 3, 3, 0, 3, 2, 0, 1, 1, 0, 1, 1}, torch::kInt64)));
  const auto some = subset(mnist, torch::tensor({5, 2}, torch::kInt64));
  CHECK_THAT(error_of([&] {
               (void)quadrant_mnist(some, QuadrantLabel::Digit, Stream(1), DrawScheme::Reference);
             }),
             Contains("2: ") && Contains("official order"));
}

TEST_CASE("quadrants refuse other sizes, kinds and places", "[data][quadrant]") {
  const auto q = torch::zeros({2}, torch::kInt64);
  const auto of = [&](const torch::Tensor& x, const torch::Tensor& where) {
    return error_of([&] { (void)place_in_quadrants(x, where); });
  };
  CHECK_THAT(of(random_images(2, 1, 32), q), Contains("must be 1 x 28 x 28, got 1 x 32 x 32"));
  CHECK_THAT(of(random_images(2).to(torch::kFloat32), q), Contains("got [2, 1, 28, 28] Float"));
  CHECK_THAT(of(random_images(3), q), Contains("must be [3] Long"));
  CHECK_THAT(of(random_images(2), q + 4), Contains("quadrant 4 of sample 0"));
}

TEST_CASE("quadrant-MNIST of the repository's test set has 40 even classes", "[data][mnist]") {
  const auto mnist = load_dataset("mnist", fs::path(EVARISTE_SOURCE_DIR) / "data", Split::Test);
  const auto set = quadrant_mnist(mnist, QuadrantLabel::Quadrant, Stream(1));
  CHECK(set.x.sizes() == torch::IntArrayRef({10000, 1, 32, 32}));
  CHECK(set.x.min().item<float>() == Approx(-0.1307 / 0.3081));
  CHECK(set.normalisation.mean == kMnistNormalisation.mean);
  const auto counts = torch::bincount(set.y, {}, 40);
  CHECK(counts.size(0) == 40);
  // 10000/40 expected, 5 standard deviations, and the digits' own unevenness (892 to 1135).
  CHECK(counts.min().item<int64_t>() > 223 - 70);
  CHECK(counts.max().item<int64_t>() < 284 + 80);
}
