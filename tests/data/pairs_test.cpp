// Two digits side by side: where they lie, what they are, how they are moved.
#include "data/pairs.h"

#include "data/transform.h"
#include "tests/data/synthetic_files.h"

using namespace evariste;

namespace {

/// Three images of each of ten classes. Class and copy stand in the pixel at the centre of a block
/// of 2 x 2, which moves by turns and flips but stays about the centre.
Dataset digits(int64_t side = 8) {
  auto x = torch::zeros({30, 1, side, side}, torch::kUInt8);
  for (int64_t i = 0; i < 30; ++i) {
    x[i][0].narrow(0, side / 2 - 1, 2).narrow(1, side / 2 - 1, 2).fill_(i + 1);
    x[i][0][1][2] = 200;  // off the axes: where it goes tells all eight moves apart
  }
  return {
      "ten", x, torch::arange(30, torch::kInt64) % 10, 10, {}, Split::Train, kMnistNormalisation};
}

/// [2, S, S] of pair i.
torch::Tensor halves(const Dataset& pairs, int64_t i) {
  const auto side = pairs.x.size(2) / 2;
  const auto rows = pairs.x[i][0].narrow(0, side / 2, side);
  return torch::stack({rows.narrow(1, 0, side), rows.narrow(1, side, side)});
}

/// Which of the eight moves of a square takes the mark of the corner to where it is: flip,
/// quarters.
std::pair<bool, int64_t> move_of(const torch::Tensor& image) {
  const auto mark = [](const torch::Tensor& x) { return x == 200; };
  const auto upright = mark(digits(image.size(0)).x[0][0]);
  for (const bool flips : {false, true})
    for (int64_t quarters = 0; quarters < 4; ++quarters)
      if (torch::equal((flips ? upright.flip(1) : upright).rot90(quarters, {0, 1}), mark(image)))
        return {flips, quarters};
  FAIL("moved otherwise");
  return {};
}

}  // namespace

TEST_CASE("pairs have all labels equally often, of digits of the right class", "[data][pairs]") {
  const auto set = digits();
  const auto pairs = digit_pairs(set, 250, "D4", Stream(3));
  CHECK(pairs.x.sizes() == torch::IntArrayRef({250, 1, 16, 16}));
  CHECK(pairs.classes == 100);
  CHECK(torch::equal(pairs.y, torch::arange(250, torch::kInt64) % 100));
  CHECK(torch::equal(pairs.index, torch::arange(250, torch::kInt64)));
  std::set<int64_t> used;
  for (int64_t i = 0; i < pairs.size(); ++i) {
    const auto both = halves(pairs, i);
    const auto left = both[0][4][4].item<int64_t>() - 1, right = both[1][4][4].item<int64_t>() - 1;
    CHECK(10 * (left % 10) + right % 10 == pairs.y[i].item<int64_t>());
    used.insert({left, right});
    CHECK(pairs.x[i].sum().item<int64_t>() == both.sum().item<int64_t>());  // nothing elsewhere
  }
  CHECK(used.size() == 30);
  CHECK(torch::equal(set.x, digits().x));
}

TEST_CASE("each digit of a pair is moved by an element of its own, all equally often",
          "[data][pairs]") {
  for (const auto& [group, order] :
       {std::pair("C1", size_t{1}), {"D1", size_t{2}}, {"C4", size_t{4}}, {"D4", size_t{8}}}) {
    CAPTURE(group);
    const auto pairs = digit_pairs(digits(), 200, group, Stream(3));
    std::map<std::pair<bool, int64_t>, int64_t> count;
    std::set<std::pair<std::pair<bool, int64_t>, std::pair<bool, int64_t>>> together;
    for (int64_t i = 0; i < pairs.size(); ++i) {
      const auto both = halves(pairs, i);
      ++count[move_of(both[0])], ++count[move_of(both[1])];
      together.emplace(move_of(both[0]), move_of(both[1]));
    }
    CHECK(count.size() == order);
    CHECK(5 * together.size() > 4 * order * order);  // one does not tell the other
    for (const auto& [move, times] : count) {
      const auto [flips, quarters] = move;
      CAPTURE(flips, quarters);
      CHECK((flips ? group[0] == 'D' : true));
      CHECK((quarters == 0 || group[1] == '4'));
      CHECK(std::abs(static_cast<double>(times) - 400.0 / static_cast<double>(order)) < 60);
    }
  }
}

TEST_CASE("angles between quarter turns are interpolated as rotated images are", "[data][pairs]") {
  const auto set = digits(28);
  const auto pairs = digit_pairs(set, 100, "SO(2)", Stream(3));
  const auto upright = digit_pairs(set, 100, "C1", Stream(3));  // the same digits
  Draws draws(Stream(3).split("poses").split(2 * 17 + 1));
  const auto angle = static_cast<float>(draws.uniform(0, 2 * std::numbers::pi));
  const auto expected = rotate(halves(upright, 17)[1].view({1, 1, 28, 28}), torch::tensor({angle}));
  CHECK((halves(pairs, 17)[1].to(torch::kFloat32) - expected[0][0]).abs().max().item<float>() <= 1);
  CHECK_FALSE(torch::equal(pairs.x[17], upright.x[17]));
  const auto mirrored = digit_pairs(set, 100, "O(2)", Stream(3));
  CHECK(torch::equal(mirrored.y, pairs.y));
  CHECK_FALSE(torch::equal(mirrored.x, pairs.x));
}

TEST_CASE("more pairs begin with the same ones, and a stream is a set", "[data][pairs]") {
  const auto set = digits();
  const auto few = digit_pairs(set, 20, "O(2)", Stream(3)),
             many = digit_pairs(set, 120, "O(2)", Stream(3));
  CHECK(torch::equal(few.x, many.x.narrow(0, 0, 20)));
  CHECK_FALSE(torch::equal(few.x, digit_pairs(set, 20, "O(2)", Stream(4)).x));
}

TEST_CASE("pairs of the digits of MNIST have the published mean", "[data][pairs][mnist]") {
  const auto mnist =
      load_dataset("mnist", std::filesystem::path(EVARISTE_SOURCE_DIR) / "data", Split::Test);
  const auto pairs = digit_pairs(mnist, 2000, "SO(2)", Stream(3));
  CHECK(pairs.x.sizes() == torch::IntArrayRef({2000, 1, 56, 56}));
  CHECK(pairs.sha256 == mnist.sha256);
  const auto x = normalised(pairs).x;
  CHECK(x.mean().item<double>() == Approx(0).margin(0.01));
}

TEST_CASE("what cannot be paired is refused", "[data][pairs]") {
  auto set = subset(digits(), torch::arange(9, torch::kInt64));
  CHECK_THAT(error_of([&] { (void)digit_pairs(set, 10, "C4", Stream(1)); }),
             Contains("2: ") && Contains("none of class 9 among 9"));
  CHECK_THAT(error_of([&] { (void)digit_pairs(digits(), 0, "C4", Stream(1)); }),
             Contains("at least 1"));
  CHECK_THAT(error_of([&] { (void)digit_pairs(digits(7), 10, "C4", Stream(1)); }),
             Contains("even size"));
  CHECK_THAT(error_of([&] { (void)digit_pairs(normalised(digits()), 10, "C4", Stream(1)); }),
             Contains("digit_pairs"));
}
