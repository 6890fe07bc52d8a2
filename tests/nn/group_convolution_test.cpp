// Group convolutions for p4: what turning and shifting an image does to them.
#include "tests/catch.h"

#include "nn/group_convolution.h"
#include "tests/nn/layer_examples.h"

using namespace evariste;

namespace {

/// A quarter turn of [n, 4 C, H, W]: every copy turns, and copy k becomes copy k + 1.
Tensor turned(const Tensor& x) {
  return x.unflatten(1, {4, -1}).rot90(1, {3, 4}).roll(1, 1).flatten(1, 2);
}

}  // namespace

TEST_CASE("group convolutions commute with quarter turns and shifts", "[nn][group]") {
  torch::NoGradGuard no_grad;
  for (const bool mix : {true, false})
    for (const int64_t groups : {1, 2})
      for (const int64_t kernel : {1, 3, 5}) {
        CAPTURE(mix, groups, kernel);
        GroupConv2d::Options options;
        options.kernel = kernel;
        options.padding = kernel / 2;
        options.circular = true;
        options.groups = groups;
        options.mix = mix;
        GroupConv2d layer(4, 6, options);
        layer.to(torch::kFloat64);
        const auto x = random_tensor({2, 16, 6, 6}, 1);
        const auto y = layer.forward(x, nullptr);
        REQUIRE(y.sizes() == at::IntArrayRef({2, 24, 6, 6}));
        CHECK(torch::allclose(layer.forward(turned(x), nullptr), turned(y), 1e-12, 1e-13));
        CHECK(torch::allclose(layer.forward(x.roll({2, 1}, {2, 3}), nullptr),
                              y.roll({2, 1}, {2, 3}), 1e-12, 1e-13));
        // Not merely by turning and shifting in turn: copies do differ.
        CHECK_FALSE(torch::allclose(y.narrow(1, 0, 6), y.narrow(1, 6, 6)));
      }
}

TEST_CASE("a group convolution is the sum of its formula", "[nn][group]") {
  torch::NoGradGuard no_grad;
  GroupConv2d::Options options;
  options.padding = 1;
  GroupConv2d layer(2, 3, options);
  layer.to(torch::kFloat64);
  const auto psi = layer.named_parameters()["weight"], b = layer.named_parameters()["bias"];
  const auto x = random_tensor({2, 8, 5, 4}, 1);
  const auto y = layer.forward(x, nullptr);
  for (int64_t k = 0; k < 4; ++k) {
    auto sum = b.view({1, 3, 1, 1}).expand({2, 3, 5, 4});
    for (int64_t j = 0; j < 4; ++j)
      sum = sum + at::conv2d(x.narrow(1, 2 * j, 2), psi.select(2, (j - k + 4) % 4).rot90(k, {2, 3}),
                             {}, 1, 1);
    CHECK(torch::allclose(y.narrow(1, 3 * k, 3), sum, 1e-12, 1e-13));
  }
}

TEST_CASE("lifting and pooling carry quarter turns", "[nn][group]") {
  const auto x = random_tensor({2, 3, 4, 4}, 1);
  GroupLift lift;
  CHECK(torch::equal(lift.forward(x.rot90(1, {2, 3}), nullptr), turned(lift.forward(x, nullptr))));
  GroupPool pool;
  const auto copies = random_tensor({2, 12, 4, 4}, 2);
  const auto pooled = pool.forward(copies, nullptr);
  CHECK(torch::equal(pooled, copies.view({2, 4, 3, 4, 4}).amax(1)));
  CHECK(torch::equal(pool.forward(turned(copies), nullptr), pooled.rot90(1, {2, 3})));
}
