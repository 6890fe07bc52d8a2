// The patch-free input factor of convolutions against patches, on random geometries.
#include "tests/catch.h"

#include "nn/convolution.h"
#include "tests/nn/layer_examples.h"

using namespace evariste;

namespace {

int64_t between(Draws& draws, int64_t low, int64_t high) {
  return low + static_cast<int64_t>(draws.below(static_cast<uint64_t>(high - low + 1)));
}

}  // namespace

TEST_CASE("the patch-free input factor is that of the patches, whatever the geometry", "[nn]") {
  torch::NoGradGuard no_grad;
  Draws draws{Stream(7)};
  int64_t tried = 0;
  for (uint64_t i = 0; i < 500; ++i) {
    ConvGeometry geometry;
    std::array<int64_t, 2> size{};
    for (size_t d = 0; d < 2; ++d) {
      geometry.kernel[d] = between(draws, 1, 5);
      geometry.stride[d] = between(draws, 1, 3);
      geometry.padding[d] = between(draws, 0, 3);
      geometry.dilation[d] = between(draws, 1, 2);
      size[d] = between(draws, 3, 9);
    }
    geometry.groups = between(draws, 1, 3);
    geometry.circular = draws.below(2) == 1;
    const auto [height, width] = geometry.output_size(size[0], size[1]);
    if (height < 1 || width < 1) continue;
    if (geometry.circular && (geometry.padding[0] > size[0] || geometry.padding[1] > size[1]))
      continue;
    const auto channels = geometry.groups * between(draws, 1, 3);
    const auto weight = random_tensor(
        {geometry.groups, channels / geometry.groups, geometry.kernel[0], geometry.kernel[1]}, i);
    const ConvBlock block(weight, geometry);
    const auto x = random_tensor({between(draws, 1, 3), channels, size[0], size[1]}, 1000 + i);
    const auto found = block.input_gram(x), expected = block.Block::input_gram(x);
    CAPTURE(i, geometry.kernel[0], geometry.kernel[1], geometry.stride[0], geometry.stride[1],
            geometry.padding[0], geometry.padding[1], geometry.dilation[0], geometry.dilation[1],
            geometry.groups, geometry.circular, size[0], size[1]);
    REQUIRE(found.sizes() == expected.sizes());
    CHECK(torch::allclose(found, expected, 1e-11, 1e-11));
    ++tried;
  }
  CHECK(tried > 300);
}
