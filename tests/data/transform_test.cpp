#include "data/transform.h"

#include <torch/nn/functional.h>

#include <numbers>

#include "tests/data/synthetic_files.h"

using namespace evariste;

namespace {

torch::Tensor random_images(int64_t n, int64_t channels = 1, int64_t side = 28) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(7);
  return torch::randint(0, 256, {n, channels, side, side}, generator, torch::kUInt8);
}

Dataset random_set(int64_t n, int64_t channels = 1, int64_t side = 28) {
  return {"random",
          random_images(n, channels, side),
          torch::arange(n) % 10,
          10,
          {},
          Split::Train,
          channels == 1 ? kMnistNormalisation : kCifarNormalisation};
}

int64_t largest_difference(const torch::Tensor& a, const torch::Tensor& b) {
  return (a.to(torch::kInt64) - b.to(torch::kInt64)).abs().max().item<int64_t>();
}

/// What torch's own affine_grid and grid_sample give. theta [N, 2, 3]
torch::Tensor torch_affine(const torch::Tensor& x, const torch::Tensor& theta, bool align_corners) {
  namespace F = torch::nn::functional;
  return F::grid_sample(x.to(torch::kFloat32), F::affine_grid(theta, x.sizes(), align_corners),
                        F::GridSampleFuncOptions()
                            .mode(torch::kBilinear)
                            .padding_mode(torch::kZeros)
                            .align_corners(align_corners))
      .to(torch::kUInt8);
}

}  // namespace

TEST_CASE("normalising maps the mean to 0 and one deviation to 1", "[data]") {
  auto x = torch::zeros({1, 3, 1, 2}, torch::kUInt8);
  for (int64_t c = 0; c < 3; ++c) x[0][c][0][1] = 255;
  const auto z = normalise(x, kCifarNormalisation);
  const std::vector<double> mean = {125.3, 123.0, 113.9}, std = {63.0, 62.1, 66.7};
  for (size_t c = 0; c < 3; ++c) {
    const auto channel = z[0][static_cast<int64_t>(c)][0];
    CHECK(channel[0].item<float>() == Approx(-mean[c] / std[c]));
    CHECK(channel[1].item<float>() == Approx((255 - mean[c]) / std[c]));
  }
}

TEST_CASE("normalised images are not normalised again, and channels must agree", "[data]") {
  const auto set = random_set(2);
  CHECK_THAT(error_of([&] { (void)normalised(normalised(set)); }),
             Contains("2: normalise: images"));
  CHECK_THAT(error_of([&] { (void)normalise(set.x, kCifarNormalisation); }),
             Contains("1 channels, the normalisation 3 and 3"));
  CHECK_THAT(error_of([&] { (void)resize(set.x, 32); }), Contains("2: resize: images"));
}

TEST_CASE("resizing keeps constants and linear ramps inside, from pixel centre to centre",
          "[data]") {
  const auto ramp = torch::arange(28, torch::kFloat32).view({1, 1, 1, 28}).expand({1, 1, 28, 28});
  const auto large = resize(ramp.contiguous(), 32);
  CHECK(large.sizes() == torch::IntArrayRef({1, 1, 32, 32}));
  for (const int64_t i : {1, 10, 30})  // align_corners = false: 28/32 (i + 1/2) - 1/2
    CHECK(large[0][0][5][i].item<float>() == Approx(0.875 * (static_cast<double>(i) + 0.5) - 0.5));
  CHECK(large[0][0][0][0].item<float>() == 0);  // clamped at the edge
}

TEST_CASE("preparing images in batches gives the same bits", "[data]") {
  const auto set = random_set(37);
  const auto whole = resized(normalised(set), 32).x;
  for (int64_t start = 0; start < 37; start += 5) {
    const auto rows = torch::arange(start, std::min<int64_t>(37, start + 5));
    CHECK(torch::equal(resized(normalised(subset(set, rows)), 32).x, whole.index_select(0, rows)));
  }
}

TEST_CASE("a rotation by 90 degrees is rot90, a full turn nothing", "[data][affine]") {
  const auto x = random_images(3, 2);
  for (const int turns : {-1, 0, 1, 2, 4}) {
    const auto angle =
        torch::full({3}, turns * std::numbers::pi / 2, torch::TensorOptions(torch::kFloat32));
    CAPTURE(turns);
    // A count may be lost where the interpolated value falls just short of it.
    CHECK(largest_difference(rotate(x, angle), torch::rot90(x, turns, {2, 3})) <= 1);
  }
}

TEST_CASE("rotation and translation are torch's affine_grid and grid_sample", "[data][affine]") {
  const auto x = random_images(50, 3);
  const auto angles = torch::linspace(-3, 3, 50), zero = torch::zeros({50}),
             one = torch::ones({50});
  const auto c = angles.cos(), s = angles.sin();
  const auto agree = [](const torch::Tensor& ours, const torch::Tensor& theirs) {
    // Truncation turns the last bit of a float into a count, but rarely.
    return largest_difference(ours, theirs) <= 1 &&
           (ours != theirs).to(torch::kFloat32).mean().item<float>() < 1e-3f;
  };
  const auto rotation = torch::stack({c, -s, zero, s, c, zero}, 1).view({50, 2, 3});
  CHECK(agree(rotate(x, angles), torch_affine(x, rotation, false)));
  const auto dx = torch::linspace(-.6, .5, 50), dy = torch::linspace(.4, -.55, 50);
  const auto shift = torch::stack({one, zero, dx, zero, one, dy}, 1).view({50, 2, 3});
  CHECK(agree(translate(x, torch::stack({dx, dy}, 1)), torch_affine(x, shift, true)));
}

TEST_CASE("an offset of k pixels moves the content by k and leaves zeros", "[data][affine]") {
  const auto x = random_images(2);
  // One pixel is 2/27 with align_corners = true. Right neighbour 3, upper neighbour 2.
  const auto offset = torch::tensor({3 * 2 / 27.0, -2 * 2 / 27.0}, torch::kFloat32).repeat({2, 1});
  auto expected = torch::zeros_like(x);
  expected.narrow(2, 2, 26).narrow(3, 0, 25).copy_(x.narrow(2, 0, 26).narrow(3, 3, 25));
  CHECK(largest_difference(translate(x, offset), expected) <= 1);
}

TEST_CASE("angles and offsets fill their ranges and no more", "[data][affine]") {
  // One bright pixel on a 29 x 29 image tells the angle or the offset of each sample.
  auto x = torch::zeros({400, 1, 29, 29}, torch::kUInt8);
  x.select(2, 14).select(2, 27).fill_(255);  // 13 to the right of the centre
  const Dataset set{"dot", x, torch::zeros({400}, torch::kInt64), 10};
  const auto centre_of_mass = [](const torch::Tensor& images, int64_t axis) {
    const auto mass = images.to(torch::kFloat64);
    const auto place = torch::arange(29, torch::kFloat64) - 14;
    return mass.sum(axis == 3 ? 2 : 3).squeeze(1).mv(place) / mass.sum({1, 2, 3});
  };
  const auto turned = rotated(set, 90, Stream(1)).x;
  const auto column = centre_of_mass(turned, 3), row = centre_of_mass(turned, 2);
  CHECK(column.min().item<double>() > -1);  // within +-90 degrees: never left of the centre
  CHECK(row.min().item<double>() < -12.5);
  CHECK(row.max().item<double>() > 12.5);

  x.zero_();
  x.select(2, 14).select(2, 14).fill_(255);
  const auto moved = translated(set, Stream(1)).x;
  for (const int64_t axis : {2, 3}) {  // +-8/14 of 14 pixels
    const auto place = centre_of_mass(moved, axis);
    CHECK(place.abs().max().item<double>() <= 8.1);
    CHECK(place.min().item<double>() < -7.5);
    CHECK(place.max().item<double>() > 7.5);
  }
  CHECK_FALSE(torch::equal(centre_of_mass(moved, 2), centre_of_mass(moved, 3)));
}

TEST_CASE("a sample is turned and moved alike in any order and company", "[data][affine]") {
  const auto set = random_set(60, 3);
  const auto rows = torch::tensor({59, 4, 31, 0, 30}, torch::kInt64);
  const auto some = subset(set, rows);
  const Stream stream(11);
  CHECK(torch::equal(rotated(some, 180, stream).x, subset(rotated(set, 180, stream), rows).x));
  CHECK(torch::equal(translated(some, stream).x, subset(translated(set, stream), rows).x));
  CHECK_FALSE(torch::equal(rotated(set, 180, Stream(12)).x, rotated(set, 180, stream).x));
  CHECK(rotated(set, 180, stream).name == "rotated(random, 180)");
}

TEST_CASE("images turned by quarters carry the turn in their label where it is asked for",
          "[data][affine]") {
  const auto set = random_set(80, 3);
  const auto plain = quarter_turned(set, TurnLabel::None, Stream(5)),
             labelled = quarter_turned(set, TurnLabel::Added, Stream(5));
  CHECK(torch::equal(plain.x, labelled.x));
  CHECK(torch::equal(plain.y, set.y));
  CHECK(plain.classes == set.classes);
  CHECK(labelled.classes == 4 * set.classes);
  const auto turns = (labelled.y - set.y).div(set.classes, "trunc");
  std::vector<int> count(4, 0);
  for (int64_t i = 0; i < set.size(); ++i) {
    const auto k = turns[i].item<int64_t>();
    CHECK(torch::equal(plain.x[i], set.x[i].rot90(k, {1, 2})));
    ++count[static_cast<size_t>(k)];
  }
  for (const int c : count) CHECK(c > 8);  // of 80, 20 expected
  const auto rows = torch::tensor({7, 3, 60}, torch::kInt64);
  CHECK(torch::equal(quarter_turned(subset(set, rows), TurnLabel::None, Stream(5)).x,
                     subset(plain, rows).x));
}

TEST_CASE("the reference angles and offsets are torch's draws", "[data][affine]") {
  // torch 2.11: torch.manual_seed(1); torch.rand(5), torch.rand(5); then seed 0 for test.
  const auto first = torch::tensor(
      {0.757631600, 0.279310882, 0.403069258, 0.734684467, 0.029281557}, torch::kFloat32);
  const auto second = torch::tensor(
      {0.799858630, 0.397137344, 0.754371941, 0.569508493, 0.438777924}, torch::kFloat32);
  const auto tested = torch::tensor(
      {0.496256590, 0.768221796, 0.088477433, 0.132030487, 0.307422817}, torch::kFloat32);
  auto set = random_set(5);
  const auto reference = DrawScheme::Reference;
  const auto radians = [](const torch::Tensor& u) {
    return (2 * u - 1) * 180 * (std::numbers::pi / 180);
  };
  CHECK(largest_difference(rotated(set, 180, Stream(1), reference).x,
                           rotate(set.x, radians(first))) <= 1);
  CHECK(largest_difference(
            translated(set, Stream(1), reference).x,
            translate(set.x, (2 * torch::stack({first, second}, 1) - 1) * (8 / 14.0))) <= 1);
  set.split = Split::Test;
  CHECK(largest_difference(rotated(set, 180, Stream(1), reference).x,
                           rotate(set.x, radians(tested))) <= 1);
  const auto some = subset(set, torch::tensor({1, 0}, torch::kInt64));
  CHECK_THAT(error_of([&] { (void)rotated(some, 180, Stream(1), reference); }),
             Contains("2: rotated") && Contains("official order"));
}

TEST_CASE("a random permutation is one, and each place is equally likely", "[data][subset]") {
  const auto p = random_permutation(1000, Stream(5));
  CHECK(torch::equal(std::get<0>(p.sort()), torch::arange(1000)));
  CHECK_FALSE(torch::equal(p, random_permutation(1000, Stream(6))));
  auto counts = torch::zeros({4, 4}, torch::kInt64);
  for (uint64_t seed = 0; seed < 4000; ++seed) {
    const auto q = random_permutation(4, Stream(seed));
    for (int64_t i = 0; i < 4; ++i) counts[i][q[i].item<int64_t>()] += 1;
  }
  CHECK((counts - 1000).abs().max().item<int64_t>() < 5 * 28);  // sd of Binomial(4000, 1/4): 27.4
}

TEST_CASE("subsets keep each sample's index, and smaller ones are part of larger",
          "[data][subset]") {
  const auto set = random_set(50);
  const auto large = random_subset(set, 30, Stream(2)), small = random_subset(set, 10, Stream(2));
  CHECK(torch::equal(large.index.narrow(0, 0, 10), small.index));
  CHECK(torch::equal(large.x, set.x.index_select(0, large.index)));
  CHECK(torch::equal(large.y, set.y.index_select(0, large.index)));
  const auto again = subset(large, torch::tensor({29, 0}, torch::kInt64));
  CHECK(torch::equal(again.x, set.x.index_select(0, again.index)));
  CHECK_THAT(error_of([&] { (void)random_subset(set, 51, Stream(2)); }),
             Contains("2: a subset of 51 samples of \"random\", which has 50"));
  CHECK_THAT(error_of([&] { (void)subset(set, torch::tensor({50}, torch::kInt64)); }),
             Contains("2: subset: row 50"));
}

TEST_CASE("augmentation is one of the 162 flips and crops, each as often", "[data][augment]") {
  const int64_t n = 3000;
  const auto image = normalise(random_images(1, 3, 8), kCifarNormalisation);
  const auto x = image.expand({n, 3, 8, 8}).contiguous();
  const auto out = augmented(x, torch::arange(n), Stream(1));

  // By the definition: pad by 4, crop at (row, column), of the image or of its mirror image.
  namespace F = torch::nn::functional;
  std::vector<torch::Tensor> all;
  for (const auto& source : {image, image.flip({3})}) {
    const auto padded = torch::constant_pad_nd(source, {4, 4, 4, 4});
    for (int64_t row = 0; row < 9; ++row)
      for (int64_t column = 0; column < 9; ++column)
        all.push_back(padded.narrow(2, row, 8).narrow(3, column, 8));
  }
  const auto known = torch::cat(all).flatten(1);  // [162, D]
  auto counts = torch::zeros({162}, torch::kInt64);
  for (int64_t i = 0; i < n; ++i) {
    const auto hits = (known == out[i].flatten()).all(1);
    REQUIRE(hits.sum().item<int64_t>() == 1);
    counts += hits;
  }
  CHECK(counts.min().item<int64_t>() > 0);  // 18.5 expected: missing one has probability 2e-6
  CHECK(counts.max().item<int64_t>() < 18 + 6 * 5);
  CHECK(counts.narrow(0, 0, 81).sum().item<double>() == Approx(n / 2.0).margin(5 * 27.4));
}

TEST_CASE("augmentation follows the sample and the epoch, not the batch", "[data][augment]") {
  const auto x = normalise(random_images(40, 3, 32), kCifarNormalisation);
  const auto index = torch::arange(40);
  const Stream epoch(9);
  const auto whole = augmented(x, index, epoch);
  const auto rows = torch::tensor({17, 39, 2}, torch::kInt64);
  CHECK(torch::equal(augmented(x.index_select(0, rows), rows, epoch), whole.index_select(0, rows)));
  CHECK_FALSE(torch::equal(augmented(x, index, Stream(10)), whole));
}

TEST_CASE("with batch scope one draw serves the whole batch", "[data][augment]") {
  const auto x = normalise(random_images(1, 3, 32), kCifarNormalisation).expand({16, 3, 32, 32});
  const auto index = torch::arange(5, 21);
  const auto out = augmented(x, index, Stream(1), AugmentScope::Batch);
  CHECK(torch::equal(out, out.narrow(0, 0, 1).expand_as(out)));
  CHECK(torch::equal(out[0], augmented(x, index, Stream(1))[0]));
}

TEST_CASE("angles_of asks for the angle by which rotated turns, counter-clockwise", "[data]") {
  const auto x = (torch::arange(6 * 9 * 9) * 37 % 251).to(torch::kUInt8).view({6, 1, 9, 9});
  const Dataset set{"mnist", x, torch::arange(6, torch::kInt64), 10};
  const auto found = angles_of(set, Stream(3));
  CHECK(torch::equal(found.x, rotated(set, 180, Stream(3)).x));
  CHECK(found.classes == 2);
  CHECK(torch::allclose(found.y.norm(2, 1), torch::ones({6}), 1e-6, 1e-6));
  const auto angles = torch::atan2(found.y.select(1, 1), found.y.select(1, 0)).contiguous();
  const auto turned = rotate(x, angles);
  CHECK((turned.to(torch::kInt32) - found.x.to(torch::kInt32)).abs().max().item<int>() <= 1);
  // pi/2 is rot90, so that the angle is counter-clockwise
  const auto quarter = rotate(x, torch::full({6}, std::numbers::pi_v<float> / 2));
  const auto expected = x.rot90(1, {2, 3});
  CHECK((quarter.to(torch::kInt32) - expected.to(torch::kInt32)).abs().max().item<int>() <= 1);
}
