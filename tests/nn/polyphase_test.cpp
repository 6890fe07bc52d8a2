// Polyphase subsampling: one phase per sample, chosen by its maximum.
#include "tests/catch.h"

#include "laplace/fit.h"
#include "laplace/kron.h"
#include "nn/pointwise.h"
#include "tests/nn/layer_examples.h"

using namespace evariste;

TEST_CASE("a shift of the input by s shifts the output by one", "[nn]") {
  torch::NoGradGuard no_grad;
  for (const int64_t stride : {2, 3}) {
    const Polyphase layer(stride);
    const auto x = random_tensor({3, 2, 2 * stride, 4 * stride}, 1);
    const auto y = layer.forward(x, nullptr);
    CHECK(torch::equal(layer.forward(x.roll({stride, -stride}, {2, 3}), nullptr),
                       y.roll({1, -1}, {2, 3})));
  }
}

TEST_CASE("any shift of the input shifts the output, as a set of pixels", "[nn]") {
  torch::NoGradGuard no_grad;
  const Polyphase layer(2);
  const auto x = random_tensor({3, 2, 6, 4}, 1);
  const auto y = layer.forward(x, nullptr);
  for (int64_t dy = 0; dy < 6; ++dy) {
    for (int64_t dx = 0; dx < 4; ++dx) {
      const auto shifted = layer.forward(x.roll({dy, dx}, {2, 3}), nullptr);
      for (int64_t n = 0; n < 3; ++n) {
        bool found = false;
        for (int64_t a = 0; a < 3; ++a)
          for (int64_t b = 0; b < 2; ++b)
            found = found || torch::equal(shifted[n], y[n].roll({a, b}, {1, 2}));
        CHECK(found);
      }
    }
  }
}

TEST_CASE("the phase with the largest maximum is kept, ties in the order of the row offset",
          "[nn]") {
  torch::NoGradGuard no_grad;
  const Polyphase layer(2);
  const auto phase_of = [&](const Tensor& x) {
    // Numbers the phases by adding what does not change the choice.
    const auto y = layer.forward(x, nullptr);
    for (int64_t j = 0; j < 2; ++j)
      for (int64_t i = 0; i < 2; ++i)
        if (torch::equal(y, x.slice(2, i, at::nullopt, 2).slice(3, j, at::nullopt, 2)))
          return std::pair(i, j);
    return std::pair<int64_t, int64_t>(-1, -1);
  };
  auto x = random_tensor({1, 2, 4, 4}, 1);
  for (const auto& [i, j] : {std::pair<int64_t, int64_t>(0, 0), {1, 0}, {0, 1}, {1, 1}}) {
    auto peaked = x.clone();
    peaked[0][1][2 + i][j] = 9.0;
    CHECK(phase_of(peaked) == std::pair(i, j));
  }
  // (1, 0) comes before (0, 1), and (0, 0) before both.
  x[0][0][1][0] = 9.0;
  x[0][1][0][1] = 9.0;
  CHECK(phase_of(x) == std::pair<int64_t, int64_t>(1, 0));
  x[0][1][2][2] = 9.0;
  CHECK(phase_of(x) == std::pair<int64_t, int64_t>(0, 0));
}

TEST_CASE("a polyphase layer marks the convolutions right before it, through sums and lists",
          "[nn]") {
  const std::string conv = "{ type = 'conv', out = 2, kernel = 3, padding = 1 }";
  const auto network =
      network_of("input = [1, 8, 8]\nlayer = [" + conv +
                 ", { type = 'relu' }, { type = 'sum', of = [" + conv + ", [" + conv + ", " + conv +
                 "], { type = 'fc', out = 2 }] }, { type = 'polyphase' }, { type = 'flatten' }, "
                 "{ type = 'linear', out = 3 }]");
  std::map<std::string, int64_t> strides;
  for (const auto* block : named_blocks(*network)) strides[block->name] = block->phase_stride;
  CHECK(strides.at("0.weight") == 1);
  CHECK(strides.at("2.0.weight") == 2);
  CHECK(strides.at("2.1.0.weight") == 1);
  CHECK(strides.at("2.1.1.weight") == 2);
  CHECK(strides.at("2.2.weight") == 1);
}

TEST_CASE("dropped positions change the factors only where positions = all", "[nn]") {
  // Selected, the factors are those of the T/4 kept patches: with the phase that is kept known,
  // those of a strided convolution.
  torch::NoGradGuard no_grad;
  const std::string tail = "{ type = 'flatten' }, { type = 'linear', out = 3 }]";
  const auto dropping = network_of(
      "input = [1, 6, 6]\nlayer = [{ type = 'conv', out = 2, kernel = 3, padding = 1 }, "
      "{ type = 'polyphase' }, " +
      tail);
  const auto strided = network_of(
      "input = [1, 6, 6]\nlayer = [{ type = 'conv', out = 2, kernel = 3, padding = 1, stride = 2 "
      "}, " +
      tail);
  randomise(*dropping, 1);
  strided->to(torch::kFloat64);
  auto x = 0.01 * random_tensor({5, 1, 6, 6}, 2);
  x.index_put_({torch::indexing::Slice(), 0, 2, 2}, 50.0);  // far above all else
  auto weight = dropping->named_parameters()["0.weight"];
  weight.zero_();
  weight[0][0][1][1] = 1.0, weight[1][0][1][1] = 0.5;  // the maximum stays in phase (0, 0)
  auto source = dropping->named_parameters();
  for (const auto& [to, from] : {std::pair("0.weight", "0.weight"), std::pair("0.bias", "0.bias"),
                                 std::pair("2.weight", "3.weight"), std::pair("2.bias", "3.bias")})
    strided->named_parameters()[to].copy_(source[from]);
  const Samples data{x, torch::tensor({0, 1, 2, 0, 1}, torch::kInt64)};
  CurvatureOptions options, all;
  all.positions = Positions::kAll;
  const auto traces = [&](Network& network, const CurvatureOptions& o) {
    const auto fit = fit_curvature(network, Softmax(), data, o);
    const auto& f = dynamic_cast<const KronCurvature&>(*fit.curvature).factors()[0];
    return std::pair(f.a.dense(), f.b.dense());
  };
  const auto expected = traces(*strided, options), found = traces(*dropping, options),
             every = traces(*dropping, all);
  CHECK(torch::allclose(found.first, expected.first, 1e-10));
  CHECK(torch::allclose(found.second, expected.second, 1e-10));
  CHECK_FALSE(torch::allclose(every.first, expected.first, 1e-3));
}
