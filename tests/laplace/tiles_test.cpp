// What goes over many samples at a time goes over few of them where they would not fit the cache:
// the layers of the other tests are too small for that.
#include "tests/catch.h"

#include "laplace/evidence.h"
#include "laplace/hyper_gradient.h"
#include "laplace/predictive.h"
#include "laplace/statistics.h"
#include "nn/convolution.h"
#include "tests/laplace/brute_force.h"
#include "tests/nn/layer_examples.h"

using namespace evariste;

namespace {

constexpr int64_t kSamples = 80;

/// With a convolution of stride 2, whose features are gathered, and one of stride 1, whose factor
/// comes from autocorrelations; one sample of either has a tenth or so of a tile.
std::shared_ptr<Network> large_images() {
  auto network = network_of(
      "input = [4, 32, 32]\nlayer = [{ type = 'conv', out = 8, kernel = 3, stride = 2, padding = 1 "
      "}, { type = 'relu' }, { type = 'conv', out = 6, kernel = 3, padding = 1 }, { type = 'tanh' "
      "}, { type = 'global_avgpool' }, { type = 'flatten' }, { type = 'linear', out = 3 }]");
  randomise(*network, 1);
  return network;
}

void check_same(const Tensor& found, const Tensor& expected) {
  REQUIRE(found.sizes() == expected.sizes());
  CHECK((found - expected).abs().max().item<double>() <
        1e-10 * expected.abs().max().item<double>());
}

}  // namespace

TEST_CASE("a sample's part of the covariance and of the gradient does not depend on the others",
          "[tiles]") {
  const auto network = large_images();
  const Samples data{random_tensor({kSamples, 4, 32, 32}, 2), random_labels(kSamples, 3, 3)};
  REQUIRE(kSamples * 256 * 4 * 9 > cached_entries(data.x));  // features of the first layer
  REQUIRE(kSamples * 256 * 8 * 2 > cached_entries(data.x));  // its columns
  for (const auto structure : {Structure::kKron, Structure::kEkfac}) {
    CurvatureOptions options;
    options.structure = structure;
    const auto fit = fit_curvature(*network, Softmax(), data, options);
    const auto priors = layerwise_priors(*fit.curvature, 0.6);
    const auto all =
        output_distribution(*network, data.x, *fit.curvature, priors, kSamples).covariance;
    const auto each = output_distribution(*network, data.x, *fit.curvature, priors, 1).covariance;
    check_same(all, each);
    if (structure != Structure::kKron) continue;
    const auto cotangents = log_det_cotangents(fit, Softmax(), priors);
    const auto gradient = [&](int64_t batch) {
      const auto x = data.x.clone().requires_grad_();
      for (int64_t begin = 0; begin < kSamples; begin += batch) {
        const Samples part{x.narrow(0, begin, batch), data.y.narrow(0, begin, batch)};
        evidence_surrogate(*network, Softmax(), part, fit, cotangents, options).backward();
      }
      return x.grad();
    };
    check_same(gradient(kSamples), gradient(1));
  }
}

namespace {

/// A convolution with a way of its own to square, as on a GPU.
class SquaringConv : public ConvBlock {
 public:
  using ConvBlock::ConvBlock;
  std::function<Tensor(const Tensor&)> squared_gradients_of(const Tensor& x) const override {
    return [this, x](const Tensor& g) {
      ++calls;
      return sample_gradients(*this, x, g).square().sum({1, 2});
    };
  }
  mutable int calls = 0;
};

}  // namespace

TEST_CASE("a block's own squared gradients serve the diagonal and the trace", "[tiles]") {
  ConvGeometry geometry;
  geometry.kernel = {3, 3}, geometry.stride = {2, 1}, geometry.padding = {1, 1},
  geometry.groups = 2;
  const auto weight = random_tensor({4, 3, 3, 3}, 1);
  const ConvBlock plain(weight, geometry);
  const SquaringConv own(weight, geometry);
  const auto x = random_tensor({5, 6, 7, 5}, 2), g = random_tensor({3, 5, 4, 4, 5}, 3);
  check_same(squared_gradients(own, Features(own, x), g),
             squared_gradients(plain, Features(plain, x), g));
  CHECK(own.calls == 1);
  CHECK(gradient_trace(own, Features(own, x), g).item<double>() ==
        Approx(gradient_trace(plain, Features(plain, x), g).item<double>()));
  CHECK(own.calls == 2);
  const auto basis = random_tensor({2, 27, 4}, 4), outer = random_tensor({2, 2, 2}, 5);
  check_same(squared_gradients(own, Features(own, x, basis), g, outer),
             squared_gradients(plain, Features(plain, x, basis), g, outer));
  // One output position: the pairs of positions cost less.
  const auto x1 = random_tensor({5, 6, 3, 1}, 6), g1 = random_tensor({3, 5, 4, 2, 1}, 7);
  CHECK(gradient_trace(own, Features(own, x1), g1).item<double>() ==
        Approx(gradient_trace(plain, Features(plain, x1), g1).item<double>()));
  CHECK(own.calls == 2);
}
