// Polyphase subsampling: one phase per sample, chosen by its maximum.
#include "tests/catch.h"

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
