// Eight-block networks: published parameter counts, exact translation invariance of CONV, and the
// nested limit in which FC + CONV becomes CONV.
#include "tests/catch.h"

#include "laplace/evidence.h"
#include "laplace/priors/builtin.h"
#include "nn/pointwise.h"
#include "tests/nn/eight_blocks.h"
#include "tests/nn/layer_examples.h"

using namespace evariste;

namespace {

struct Count {
  std::vector<std::string> paths;
  int64_t in_channels, alpha, classes, parameters;
  size_t tensors;
};

/// What shifts and, of `copies` stacked copies, quarter turns may only permute: the sorted values
/// of every channel before each nonlinearity, then the outputs, [n, C, values] each.
std::vector<Tensor> orbits_at_every_depth(const Network& network, const Tensor& x, int64_t copies) {
  std::vector<Tensor> out;
  auto y = x;
  for (const auto& layer : network.layers()) {
    if (dynamic_cast<const Activation*>(layer.get()) && y.dim() == 4)
      out.push_back(std::get<0>(y.unflatten(1, {copies, -1}).transpose(1, 2).flatten(2).sort(2)));
    y = layer->forward(y);
  }
  out.push_back(y.unsqueeze(2));
  return out;
}

/// Each sample has the orbit of the one in `expected`, but for rounding.
void expect_orbits(const std::vector<Tensor>& found, const std::vector<Tensor>& expected) {
  REQUIRE(found.size() == expected.size());
  for (size_t depth = 0; depth < found.size(); ++depth) {
    CAPTURE(depth);
    const auto scale = expected[depth].abs().max().item<double>();
    REQUIRE(scale > 0);
    if ((found[depth] - expected[depth]).abs().max().item<double>() > 1e-11 * scale)
      FAIL_CHECK("not invariant");
  }
}

}  // namespace

TEST_CASE("eight-block networks have the published number of parameters", "[nn]") {
  const std::vector<Count> counts = {
      {{"conv"}, 3, 10, 10, 338770, 20},
      {{"conv"}, 1, 10, 10, 338590, 20},
      {{"conv"}, 1, 10, 40, 357820, 20},
      {{"factored_fc"}, 3, 10, 10, 1542625, 36},
      {{"factored_fc", "conv"}, 3, 10, 10, 1771945, 52},
      {{"factored_fc", "conv"}, 1, 10, 10, 1730805, 52},
      {{"factored_fc", "conv"}, 1, 10, 40, 1750035, 52},
      {{"conv"}, 1, 2, 10, 14766, 20},
      {{"fc"}, 1, 2, 10, 6189802, 20},
      {{"factored_fc", "conv"}, 1, 2, 10, 75421, 52},
      {{"conv"}, 1, 2, 40, 18636, 20},
      {{"factored_fc", "conv"}, 1, 2, 40, 79291, 52},
      {{"sparse_fc"}, 3, 10, 10, 831820, 28},
      {{"sparse_conv 0.8"}, 3, 10, 10, 287910, 20},
      {{"sparse_fc", "sparse_conv 0.5"}, 3, 10, 10, 933990, 44},
      {{"group_conv"}, 3, 10, 10, 1025380, 20},
      {{"separable"}, 3, 10, 10, 214550, 36},
      {{"depth_separable"}, 3, 10, 10, 139725, 52},
      {{"group_conv"}, 3, 6, 10, 371200, 20},
      {{"separable"}, 3, 13, 10, 358463, 36},
      {{"depth_separable"}, 3, 16, 10, 346215, 52},
  };
  for (const auto& c : counts) {
    CAPTURE(c.paths, c.in_channels, c.alpha, c.classes);
    const auto network =
        network_of(eight_block_network(c.paths, c.in_channels, c.alpha, c.classes));
    int64_t parameters = 0;
    for (const auto& p : network->parameters()) parameters += p.numel();
    CHECK(parameters == c.parameters);
    CHECK(network->parameters().size() == c.tensors);
    CHECK(named_blocks(*network).size() == c.tensors);
    CHECK(network->outputs() == c.classes);
  }
}

TEST_CASE("the mixer has the published number of parameters", "[nn]") {
  for (const auto& [in, classes, parameters] :
       {std::tuple<int64_t, int64_t, int64_t>(1, 10, 1105843),
        {3, 10, 1237527},
        {3, 100, 1249137}}) {
    const auto network = network_of(mixer_network(in, classes));
    int64_t found = 0;
    for (const auto& p : network->parameters()) found += p.numel();
    CHECK(found == parameters);
  }
}

TEST_CASE("eight-block group networks are invariant to shifts and quarter turns at every depth",
          "[nn]") {
  torch::NoGradGuard no_grad;
  for (const auto* kind : {"group_conv", "separable", "depth_separable", "mixer"}) {
    CAPTURE(kind);
    const bool mixes = std::string(kind) == "mixer";
    const auto network =
        network_of(mixes ? mixer_network(1, 10) : eight_block_network({kind}, 1, 1, 10));
    randomise(*network, 1);
    for (const auto& item : network->named_parameters())  // of the mixer: FC at zero
      if (item.key().find(".U") != std::string::npos ||
          item.key().find("bias_") != std::string::npos ||
          (mixes && item.key().find(".1.0.0.") != std::string::npos))
        item.value().zero_();
    const auto x = random_tensor({1, 1, 32, 32}, 2);
    const auto expected = orbits_at_every_depth(*network, x, 4);
    CHECK(expected.size() == 9);
    // Of the mixer, four times as wide, every fifth row.
    for (int64_t dy = 0; dy < 32; dy += mixes ? 5 : 1) {
      std::vector<Tensor> moved;
      for (int64_t dx = 0; dx < 32; ++dx)
        for (int64_t k = 0; k < 4; ++k) moved.push_back(x.roll({dy, dx}, {2, 3}).rot90(k, {2, 3}));
      expect_orbits(orbits_at_every_depth(*network, torch::cat(moved), 4), expected);
    }
  }
}

TEST_CASE("parameters of FC and FC + CONV add up", "[nn]") {
  // At alpha = 2; the counts at alpha = 10 follow from the sizes of the maps, without 133 million
  // weights in memory.
  constexpr std::array<int64_t, 9> kSides = {32, 32, 16, 16, 8, 8, 4, 2, 1};
  constexpr std::array<int64_t, 9> kWidths = {0, 1, 2, 2, 4, 4, 8, 8, 16};
  const auto maps = [&](int64_t in, int64_t alpha, bool conv) {
    int64_t sum = 0;
    for (size_t b = 1; b < 9; ++b) {
      const auto c = b == 1 ? in : alpha * kWidths[b - 1], d = alpha * kWidths[b];
      const auto y = d * kSides[b] * kSides[b];
      sum += conv ? 9 * c * d + d : y * (c * kSides[b - 1] * kSides[b - 1] + 1);
    }
    return sum;
  };
  const auto head = [](int64_t alpha, int64_t classes) {
    return (16 * alpha + 1) * 64 * alpha + (64 * alpha + 1) * classes;
  };
  CHECK(maps(3, 10, false) + head(10, 10) == 133635690);
  CHECK(maps(3, 10, false) + maps(3, 10, true) + head(10, 10) == 133865010);
  CHECK(maps(1, 10, false) + head(10, 10) == 112664170);
  CHECK(maps(1, 10, false) + head(10, 40) == 112683400);
  const auto network = network_of(eight_block_network({"fc", "conv"}, 1, 2, 40));
  int64_t parameters = 0;
  for (const auto& p : network->parameters()) parameters += p.numel();
  CHECK(parameters == maps(1, 2, false) + maps(1, 2, true) + head(2, 40));
  CHECK(network->parameters().size() == 36);
  CHECK(maps(1, 2, false) + head(2, 40) == 6193672);
}

TEST_CASE("eight-block CONV and S-CONV networks are invariant to every shift at every depth",
          "[nn]") {
  torch::NoGradGuard no_grad;
  for (const auto* path : {"conv", "sparse_conv 0.8"}) {
    CAPTURE(path);
    const auto network = network_of(eight_block_network({path}, 1, 2, 10));
    randomise(*network, 1);
    const auto x = random_tensor({1, 1, 32, 32}, 2);
    const auto expected = orbits_at_every_depth(*network, x, 1);
    CHECK(expected.size() == 9);
    for (int64_t dy = 0; dy < 32; ++dy) {
      std::vector<Tensor> moved;
      for (int64_t dx = 0; dx < 32; ++dx) moved.push_back(x.roll({dy, dx}, {2, 3}));
      expect_orbits(orbits_at_every_depth(*network, torch::cat(moved), 1), expected);
    }
  }
}

TEST_CASE("an image's output does not depend on the images beside it", "[nn]") {
  torch::NoGradGuard no_grad;
  for (const auto* path : {"conv", "sparse_conv 0.8", "group_conv", "separable"}) {
    CAPTURE(path);
    const auto network = network_of(eight_block_network({path}, 1, 2, 10));
    randomise(*network, 1);
    const auto x = random_tensor({8, 1, 32, 32}, 2);
    const auto y = network->forward(x);
    for (int64_t i = 0; i < 8; ++i)
      CHECK((network->forward(x.narrow(0, i, 1)) - y.narrow(0, i, 1)).abs().max().item<double>() <=
            1e-12 * y.abs().max().item<double>());
  }
}

TEST_CASE("with its FC pathways at zero and pruned, FC + CONV is half a CONV", "[nn]") {
  torch::NoGradGuard no_grad;
  const std::string conv =
      "{ type = 'conv', out = 3, kernel = 3, padding = 1 }, "
      "{ type = 'polyphase' }";
  const std::string tail = "{ type = 'relu' }, { type = 'flatten' }, { type = 'linear', out = 4 }]";
  const auto both = network_of(
      "input = [2, 4, 4]\nlayer = [{ type = 'sum', of = [{ type = 'fc', out = 3, stride = 2 }, [" +
      conv + "]] }, " + tail);
  const auto strict = network_of(
      "input = [2, 4, 4]\nlayer = [{ type = 'sum', scale = 0.5, of = [[" + conv + "]] }, " + tail);
  randomise(*both, 1);
  strict->to(torch::kFloat64);
  auto source = both->named_parameters();
  for (const auto& item : strict->named_parameters()) {
    auto name = item.key();
    if (name.rfind("0.0.", 0) == 0) name.replace(2, 1, "1");  // the pathway's place in the sum
    item.value().copy_(source[name]);
  }
  source["0.0.weight"].zero_();
  source["0.0.bias"].zero_();
  const Samples data{random_tensor({7, 2, 4, 4}, 2), torch::arange(7) % 4};
  CHECK((both->forward(data.x) - strict->forward(data.x)).abs().max().item<double>() < 1e-12);

  Priors priors;
  const auto fit = fit_curvature(*both, Softmax(), data, {});
  for (const auto* block : fit.curvature->blocks())
    priors.emplace_back(
        IsotropicGaussian(block->name.rfind("0.0.", 0) == 0 ? std::exp(20.0) : 1.0));
  const auto evidence = evaluate_evidence(fit, Softmax(), priors);
  double pruned = 0;
  for (const auto& block : evidence.blocks)
    if (block.name.rfind("0.0.", 0) == 0) pruned += block.log_det_ratio + block.scatter;
  CHECK(pruned > 0);
  CHECK(pruned < 1e-4 * (evidence.log_det_ratio + evidence.scatter));
}
