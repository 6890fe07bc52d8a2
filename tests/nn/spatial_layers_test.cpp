// Layers that change the grid, or the group of fields: closed forms, torch's own, exact
// equivariance where sizes allow it, and a U-net of them.
#include "core/error.h"
#include "groups/grid_action.h"
#include "nn/concat.h"
#include "nn/equivariance.h"
#include "nn/field_basis.h"
#include "nn/field_restriction.h"
#include "nn/resample.h"
#include "nn/steerable_convolution.h"
#include "nn/transposed_convolution.h"
#include "tests/catch.h"
#include "tests/nn/layer_examples.h"

using namespace evariste;

namespace {

/// g acting on images [n, C, S, S] or volumes: pixels alone.
Tensor moved(const Tensor& x, const Element& g) {
  const auto index = grid_action(g, static_cast<int>(x.size(2)));
  REQUIRE(index);
  return x.flatten(2).index_select(2, torch::tensor(*index)).view(x.sizes());
}

/// Channels too.
Tensor acted(const Tensor& x, const FieldType& fields, const Element& g) {
  return as_tensor(fields.at(g)).matmul(moved(x, g).flatten(2)).view(x.sizes());
}

double distance(const Tensor& found, const Tensor& expected) {
  REQUIRE(found.sizes() == expected.sizes());
  return (found - expected).abs().max().item<double>() / (1 + expected.abs().max().item<double>());
}

void check_close(const Tensor& found, const Tensor& expected, double tolerance = 1e-11) {
  CHECK(distance(found, expected) < tolerance);
}

/// The largest error of commuting with quarter turns and flips, of images or volumes of this side.
double turn_error(const Layer& layer, int64_t side, int axes = 2) {
  std::vector<int64_t> shape(static_cast<size_t>(axes) + 2, side);
  shape[0] = 2, shape[1] = 3;
  const auto x = random_tensor(shape, 5);
  const auto y = layer.forward(x, nullptr);
  double worst = 0;
  const auto grid = axes == 2 ? make_group("D4") : make_group("Oh");
  for (const auto& g : grid->elements())
    worst = std::max(worst, distance(layer.forward(moved(x, g), nullptr), moved(y, g)));
  return worst;
}

std::string message_of(const std::string& input, const std::string& layers) {
  try {
    network_of("input = " + input + "\nlayer = [" + layers +
               ", { type = 'flatten' }, { type = 'linear', out = 2 }]");
  } catch (const UsageError& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("a blur pool is the mean over a Gaussian window", "[nn][spatial]") {
  torch::NoGradGuard no_grad;
  const auto delta = torch::zeros({1, 1, 5, 5}, torch::kFloat64);
  delta[0][0][2][2] = 1;
  const auto window = BlurPool(0.66, 1).forward(delta, nullptr)[0][0];  // symmetric
  // Computed with escnn's PointwiseAvgPoolAntialiased.
  const auto centre =
      torch::tensor({0.003702, 0.115863, 0.365129, 0.115863, 0.003702}, torch::kFloat64);
  CHECK((window[2] - centre).abs().max().item<double>() < 1e-6);
  CHECK(window[0][0].item<double>() == Approx(0.000038).margin(5e-7));
  CHECK(window.sum().item<double>() == Approx(1).epsilon(1e-14));

  const auto x = random_tensor({2, 3, 8, 7}, 4);
  for (const int64_t stride : {1, 2, 3})
    for (const int64_t padding : {0, 1, 2}) {
      const auto weight = window.expand({3, 1, 5, 5}).contiguous();
      check_close(BlurPool(0.66, stride, padding).forward(x, nullptr),
                  torch::conv2d(x, weight, {}, stride, padding, 1, 3));
    }
  const auto line = window.sum(0);
  const auto cube = (line.view({5, 1, 1}) * line.view({1, 5, 1}) * line.view({1, 1, 5}));
  const auto volume = random_tensor({2, 2, 6, 5, 7}, 4);
  check_close(BlurPool(0.66, 2).forward(volume, nullptr),
              torch::conv3d(volume, cube.expand({2, 1, 5, 5, 5}).contiguous(), {}, 2, 2, 1, 2));
  CHECK(BlurPool::size_of(0.66) == 5);
  CHECK(BlurPool::size_of(1) == 7);
}

TEST_CASE("resampling commutes with quarter turns where the stride leaves nothing over",
          "[nn][spatial]") {
  torch::NoGradGuard no_grad;
  for (const int64_t side : {5, 7, 9}) {
    CAPTURE(side);
    CHECK(turn_error(BlurPool(0.66, 2), side) < 1e-13);
    CHECK(turn_error(BlurPool(0.66, 2), side - 1) > 1e-2);  // moved by half a pixel
    CHECK(turn_error(BlurPool(0.66, 1, 1), side - 1) < 1e-13);
    CHECK(turn_error(BlurPool(1, 3, 3), side) < (side == 7 ? 1e-13 : 10));
    for (const int64_t size : {4, 7, 11, 14}) {
      CHECK(turn_error(Upsample({size, size}, Upsample::Mode::kLinear), side) < 1e-13);
      const bool is_whole = size % side == 0;
      CHECK((turn_error(Upsample({size, size}, Upsample::Mode::kNearest), side) < 1e-13) ==
            is_whole);
    }
    CHECK(turn_error(DiscMask({side, side}), side) < 1e-14);
  }
  CHECK(turn_error(BlurPool(0.66, 2), 5, 3) < 1e-13);
  CHECK(turn_error(Upsample({6, 6, 6}, Upsample::Mode::kLinear), 4, 3) < 1e-13);
  CHECK(turn_error(Upsample({6, 6, 6}, Upsample::Mode::kNearest), 3, 3) < 1e-13);
  CHECK(turn_error(DiscMask({4, 4, 4}), 4, 3) < 1e-14);
}

TEST_CASE("linear upsampling is between the nearest pixels, nearest repeats them",
          "[nn][spatial]") {
  torch::NoGradGuard no_grad;
  const auto ramp = torch::tensor({0.0, 1.0}, torch::kFloat64).view({1, 1, 1, 2});
  check_close(Upsample({1, 4}, Upsample::Mode::kLinear).forward(ramp, nullptr),
              torch::tensor({0.0, 0.25, 0.75, 1.0}, torch::kFloat64).view({1, 1, 1, 4}));
  check_close(
      Upsample({2, 4}, Upsample::Mode::kNearest).forward(ramp, nullptr),
      torch::tensor({0.0, 0.0, 1.0, 1.0}, torch::kFloat64).repeat({2, 1}).view({1, 1, 2, 4}));
  // A scale gives the floor of each side, and samples as the sides that come of it do.
  const auto network = network_of(
      "input = [1, 5, 4]\nlayer = [{ type = 'upsample', scale = [1.5, 2] }, { type = 'flatten' }]");
  const auto x = random_tensor({2, 1, 5, 4}, 3);
  check_close(network->forward(x),
              Upsample({7, 8}, Upsample::Mode::kLinear).forward(x, nullptr).flatten(1));
}

TEST_CASE("a mask keeps the disc and lets its edge fall off", "[nn][spatial]") {
  const auto mask = DiscMask({29, 29}).mask();
  CHECK(mask[14][0].item<double>() == Approx(0.377155).margin(1e-6));  // as escnn's MaskModule
  CHECK(mask[14][1].item<double>() == 1);
  CHECK(mask[14][14].item<double>() == 1);
  CHECK(mask[0][0].item<double>() < 1e-20);
  const auto ball = DiscMask({5, 5, 5}, 50, 1).mask();
  CHECK(ball[2][2][1].item<double>() == 1);
  CHECK(ball[2][1][1].item<double>() == Approx(std::exp(-1)));
  CHECK(ball[1][1][1].item<double>() == Approx(std::exp(-2)));
}

TEST_CASE("a transposed convolution is torch's, and the transpose of a convolution",
          "[nn][spatial]") {
  torch::NoGradGuard no_grad;
  const auto network = network_of(
      "input = [4, 5, 3]\nlayer = [{ type = 'conv_transpose', out = 6, kernel = [3, 2], stride = "
      "[2, 3], padding = [2, 0], output_padding = [1, 2], dilation = [2, 1], groups = 2 }, { type "
      "= 'flatten' }]");
  randomise(*network, 1);
  const auto parameters = network->named_parameters();
  CHECK(parameters["0.weight"].sizes() == at::IntArrayRef({4, 3, 3, 2}));
  CHECK(parameters["0.bias"].sizes() == at::IntArrayRef({6}));
  const auto x = random_tensor({2, 4, 5, 3}, 2);
  check_close(network->forward(x),
              torch::conv_transpose2d(x, parameters["0.weight"], parameters["0.bias"], {2, 3},
                                      {2, 0}, {1, 2}, 2, {2, 1})
                  .flatten(1));

  const auto volumes = network_of(
      "input = [2, 2, 3, 2]\nlayer = [{ type = 'conv_transpose3d', out = 3, kernel = 3, stride = "
      "2, padding = [1, 0, 2], bias = false }, { type = 'flatten' }]");
  randomise(*volumes, 1);
  const auto weight = volumes->named_parameters()["0.weight"];
  const auto v = random_tensor({2, 2, 2, 3, 2}, 2);
  const auto y = torch::conv_transpose3d(v, weight, {}, 2, {1, 0, 2});
  check_close(volumes->forward(v), y.flatten(1));
  // <conv u, v> = <u, conv^T v>
  const auto u = random_tensor(y.sizes(), 3);
  CHECK((torch::conv3d(u, weight, {}, 2, {1, 0, 2}) * v).sum().item<double>() ==
        Approx((u * y).sum().item<double>()).epsilon(1e-12));
}

TEST_CASE("fresh transposed convolutions keep the variance whatever their stride",
          "[nn][spatial]") {
  torch::NoGradGuard no_grad;
  for (const int stride : {1, 2, 3}) {
    const auto network = network_of(fmt::format(
        "input = [16, 12, 12]\nlayer = [{{ type = 'conv_transpose', out = 32, kernel = 6, stride = "
        "{0}, padding = {1}, bias = false }}, {{ type = 'flatten' }}]",
        stride, 6 - stride));
    initialise(*network, Stream(3));
    const auto x = random_tensor({4, 16, 12, 12}, 2).to(torch::kFloat32);
    // As a convolution's: uniform in +-1/sqrt(fan-in).
    CHECK(3 * network->forward(x).var().item<double>() == Approx(1).epsilon(0.1));
  }
}

TEST_CASE("a transposed steerable convolution turns its output with its input", "[nn][spatial]") {
  torch::NoGradGuard no_grad;
  struct Case {
    const char* group;
    std::vector<std::string> in, out;
  };
  const Case cases[] = {{"C4", {"3 trivial"}, {"2 regular"}},
                        {"C4", {"2 regular", "1 trivial"}, {"1 regular", "2 (1)"}},
                        {"D4", {"1 (1,1)", "1 /C2"}, {"1 /D1", "1 (0,2)"}},
                        {"O(2)", {"1 <2"}, {"1 trivial", "1 (1,0)", "1 (1,2)"}}};
  const auto grid = make_group("D4");
  for (const auto& c : cases)
    for (const int64_t stride : {1, 2, 3}) {
      const auto group = make_group(c.group, 2);
      SteerableOptions options;
      options.stride = stride, options.padding = 1;
      const auto check = [&](int64_t output_padding) {
        options.output_padding = output_padding;
        SteerableConvTranspose2d layer(FieldType::parse(group, c.in),
                                       FieldType::parse(group, c.out), options);
        layer.to(torch::kFloat64);
        uint64_t seed = 3;
        for (auto& w : layer.parameters()) w.copy_(random_tensor(w.sizes(), seed++));
        const auto x = random_tensor({2, layer.in().channels(), 5, 5}, 5);
        const auto y = layer.forward(x, nullptr);
        const auto [w, b] = layer.plain();  // [C_out, C_in, k, k]
        check_close(y, torch::conv_transpose2d(x, w.transpose(0, 1), b, stride, 1, output_padding));
        double worst = 0;
        for (const auto& g : grid->elements())
          if (group->contains(g))
            worst = std::max(worst, distance(layer.forward(acted(x, layer.in(), g), nullptr),
                                             acted(y, layer.out(), g)));
        return worst;
      };
      CAPTURE(c.group, stride);
      CHECK(check(0) < 1e-12);
      if (stride > 1) CHECK(check(1) > 1e-2);  // more rows at one end only
    }

  const auto group = make_group("O", 3);
  SteerableOptions options;
  options.stride = 2, options.padding = 1;
  SteerableConvTranspose3d layer(FieldType::parse(group, {"1 T1", "1 trivial"}),
                                 FieldType::parse(group, {"1 regular"}), options);
  layer.to(torch::kFloat64);
  for (auto& w : layer.parameters()) w.copy_(random_tensor(w.sizes(), 3));
  const auto x = random_tensor({1, 4, 3, 3, 3}, 5);
  const auto y = layer.forward(x, nullptr);
  CHECK(y.size(2) == 5);
  for (const auto& g : group->elements())
    check_close(layer.forward(acted(x, layer.in(), g), nullptr), acted(y, layer.out(), g));
}

TEST_CASE("pathways lie one behind the other along the channels", "[nn][spatial]") {
  torch::NoGradGuard no_grad;
  const auto network = network_of(
      "input = [2, 3, 3]\nlayer = [{ type = 'concat', of = [[], { type = 'conv', out = 3, kernel = "
      "3, padding = 1 }, [{ type = 'tanh' }, { type = 'scale' }]] }, { type = 'flatten' }]");
  randomise(*network, 1);
  const auto p = network->named_parameters();
  CHECK(p.keys() == std::vector<std::string>{"0.1.weight", "0.1.bias", "0.2.1.weight"});
  const auto x = random_tensor({4, 2, 3, 3}, 2);
  const auto conv = torch::conv2d(x, p["0.1.weight"], p["0.1.bias"], 1, 1);
  check_close(network->forward(x),
              torch::cat({x, conv, x.tanh() * p["0.2.1.weight"]}, 1).flatten(1));

  const auto fields = layer_fields(
      toml::parse("input = [1, 5, 5]\nlayer = [{ type = 'steerable_conv', group = 'D4', out = ['1 "
                  "trivial', '2 regular'], padding = 1 }, { type = 'concat', of = [[], { type = "
                  "'steerable_conv', out = ['3 regular', '1 (1,1)'], padding = 1 }] }, { type = "
                  "'concat', of = [[], { type = 'steerable_conv', out = '1 (1,1)', padding = 1 }, "
                  "{ type = 'conv', out = 1, kernel = 1 }] }, { type = 'flatten' }]"),
      "net.toml");
  REQUIRE(fields[1]);
  CHECK(fields[1]->text() == "D4: 1 trivial, 5 regular, 1 (1,1)");
  CHECK_FALSE(fields[2]);
}

namespace {

struct Narrowed {
  const char *from, *to;
  std::vector<std::string> fields;
  const char* text;  // of what they become
};
const Narrowed kNarrowed[] = {
    {"D4", "C4", {"3 regular"}, "C4: 6 regular"},
    {"D4", "C1", {"1 regular", "2 (1,1)"}, "C1: 12 trivial"},
    {"D4", "C2", {"1 regular"}, "C2: 4 regular"},
    {"D4", "D2", {"2 regular"}, "D2: 4 regular"},
    {"D4", "D2@45", {"1 regular"}, "D2@45: 2 regular"},
    {"D4", "D1", {"1 regular", "1 (1,1)", "2 (1,0)"}, "D1: 4 regular, 1 trivial, 3 (1,0)"},
    {"D4", "D1@135", {"2 (1,1)", "1 (0,2)"}, "D1@135: 2 regular, 1 (1,0)"},
    {"D4", "D1@45", {"2 (1,1)", "1 (0,2)"}, "D1@45: 2 trivial, 3 (1,0)"},
    {"D4", "C4", {"1 (1,1)", "1 (1,2)", "1 (0,2)", "1 (1,0)"}, "C4: 1 (1), 2 (2), 1 trivial"},
    {"D4", "C4", {"1 /D1", "1 /C2", "1 /C4", "1 /D2"}, "C4: 1 regular, 2 /C2, 2 trivial, 1 /C2"},
    {"D4", "D2", {"1 /D1", "1 /C2"}, "D2: 1 /D1, 1 /D1@180, 2 /C2"},
    {"C8", "C4", {"2 <4", "1 (3)"}, "C4: 4 <4, 1 (1)"},
    {"C6", "C3", {"1 regular", "1 (2)", "1 (3)"}, "C3: 2 regular, 1 (1), 1 trivial"},
    {"SO(2)", "C8", {"1 <3", "1 (5)"}, "C8: 1 <3, 1 (3)"},
    {"SO(2)", "C4", {"1 <2"}, "C4: 1 trivial, 1 (1), 2 (2)"},
    {"O(2)", "SO(2)", {"2 <2", "1 (1,3)", "1 (1,0)"}, "SO(2): 4 <2, 1 (3), 1 trivial"},
    {"O(2)", "C4", {"1 (1,3)", "1 (1,1)"}, "C4: 2 (1)"},
    {"O(2)", "D4", {"1 (1,3)", "1 <1"}, "D4: 1 (1,1), 1 <1"},
    {"O(2)", "D4@30", {"1 (1,1)", "1 (1,2)"}, "D4@30: 1 (1,1), 1 (1,2), 1 (0,2)"},
    {"O(2)", "C1", {"1 <1"}, "C1: 6 trivial"},
    {"D4", "D4", {"1 regular", "1 (1,1)"}, "D4: 1 regular, 1 (1,1)"},
    {"O(2)", "SO(2)", {"1 <1+<1", "2 (1,1)+(1,0)"}, "SO(2): 4 trivial, 6 (1), 2 trivial"},
    {"O", "T", {"1 regular", "1 T1", "1 E", "1 A2"}, "T: 2 regular, 1 T, 1 E, 1 trivial"},
    {"O", "C4", {"1 regular"}, "C4: 6 regular"},
    {"SO(3)", "O", {"1 (1)", "1 (2)", "1 (3)"}, "O: 1 T1, 1 T2, 1 E, 1 T1, 1 T2, 1 A2"},
    {"O(3)", "SO(3)", {"1 (1,1)", "1 <1"}, "SO(3): 1 (1), 2 <1"},
    {"SO(3)", "SO(2)", {"1 (1)"}, "SO(2): 1 (1), 1 trivial"},
};

}  // namespace

TEST_CASE("restricted fields transform by the subgroup as they did, under names that files have",
          "[nn][spatial]") {
  torch::NoGradGuard no_grad;
  Draws draws(Stream(3));
  for (const auto& c : kNarrowed) {
    const auto group = make_group(c.from), subgroup = make_group(c.to, group->dimension());
    const auto fields = FieldType::parse(group, c.fields);
    CAPTURE(fields.text(), c.to);
    FieldRestriction layer(fields, subgroup);
    CHECK(layer.out().text() == c.text);
    std::vector<std::string> words;
    for (const auto& kind : layer.out().kinds)
      words.push_back(fmt::format("{} {}", kind.count, kind.name));
    const auto read = FieldType::parse(subgroup, words);
    const auto x = random_tensor({3, fields.channels(), 2}, 4);
    const auto y = layer.forward(x, nullptr);
    check_close(y.square().sum(1), x.square().sum(1));  // orthogonal
    for (int i = 0; i < 8; ++i) {
      const auto h = subgroup->sample(draws);
      const auto turned = layer.forward(as_tensor(fields.at(h)).matmul(x), nullptr);
      check_close(turned, as_tensor(layer.out().at(h)).matmul(y));
      check_close(turned, as_tensor(read.at(h)).matmul(y));
    }
  }
}

TEST_CASE("a permutation of cosets without a name stays one", "[nn][spatial]") {
  torch::NoGradGuard no_grad;
  // The five tetrahedra in an icosahedron: the turns of one permute the other four, and what keeps
  // one of those are turns about a diagonal, which no name of a group is for.
  const auto group = make_group("I"), subgroup = make_group("T");
  const auto fields = FieldType::parse(group, {"1 /T"});
  const FieldRestriction layer(fields, subgroup);
  CHECK(layer.out().text() == "T: 1 trivial, 1 channels 1 2 3 4 of /T of I");
  CHECK(layer.out().is_permutation());
  Draws draws(Stream(3));
  const auto x = random_tensor({3, fields.channels()}, 4);
  for (int i = 0; i < 8; ++i) {
    const auto h = subgroup->sample(draws);
    check_close(layer.forward(x.matmul(as_tensor(fields.at(h)).t()), nullptr),
                layer.forward(x, nullptr).matmul(as_tensor(layer.out().at(h)).t()));
  }
}

namespace {

/// A residual U-net on fields of D4 that becomes one of C4 before its last fields.
std::string unet(int width) {
  const auto conv = [&](const std::string& type, int out, const std::string& more) {
    return fmt::format("{{ type = '{}', out = '{} regular', padding = 1{} }}", type, out, more);
  };
  return "{ type = 'steerable_conv', group = 'D4', out = '" + std::to_string(width) +
         " regular', padding = 1 }, { type = 'elu' }, { type = 'concat', of = [[], [{ type = "
         "'blurpool' }, { type = 'residual', layer = [" +
         conv("steerable_conv", width, "") +
         ", { type = 'relu' }] }, { type = 'concat', of = [[], [{ type = 'blurpool' }, " +
         conv("steerable_conv", width, "") +
         ", { type = 'elu' }, { type = 'upsample', size = 7 }]] }, " +
         conv("steerable_conv_transpose", width, ", stride = 2") +
         ", { type = 'elu' }]] }, { type = 'residual', layer = [" +
         conv("steerable_conv", 2 * width, "") + ", { type = 'elu' }] }";
}

}  // namespace

TEST_CASE("a residual U-net on fields of D4 turns its output with its input", "[nn][spatial]") {
  torch::NoGradGuard no_grad;
  const auto text = "input = [1, 13, 13]\nlayer = [" + unet(2) +
                    ", { type = 'restrict', group = 'C4' }, { type = 'steerable_conv', out = '2 "
                    "(1)', padding = 1 }, { type = 'mask' }, { type = 'flatten' }]";
  const auto network = network_of(text);
  randomise(*network, 2);
  const auto fields = layer_fields(toml::parse(text), "net.toml");
  const auto x = random_tensor({2, 1, 13, 13}, 7);
  std::vector<Tensor> outputs;
  const auto all_of = [&](const Tensor& image) {
    std::vector<Tensor> out = {image};
    for (const auto& layer : network->layers()) out.push_back(layer->forward(out.back(), nullptr));
    return out;
  };
  const auto plain = all_of(x);
  CHECK(fields[2]->text() == "D4: 4 regular");
  CHECK(fields[4]->text() == "C4: 8 regular");
  CHECK(fields[6]->text() == "C4: 2 (1)");
  const auto group = make_group("D4");
  for (const auto& g : group->elements()) {
    const auto turned = all_of(acted(x, FieldType::trivial(group, 1), g));
    for (size_t i = 0; i + 1 < network->layers().size(); ++i) {
      if (!fields[i]->group->contains(g)) continue;
      CAPTURE(i);
      check_close(turned[i + 1], acted(plain[i + 1], *fields[i], g), 1e-12);
    }
  }
}

TEST_CASE("layers of the grid say what does not fit or does not commute", "[nn][spatial]") {
  const auto wrong = [](const std::string& input, const std::string& layers,
                        const std::string& message) {
    CAPTURE(input, layers);
    CHECK_THAT(message_of(input, layers), Contains(message));
  };
  wrong("[4]", "{ type = 'blurpool' }", "expected an input [C, H, W] or [C, D, H, W], got [4]");
  wrong("[1, 4, 4]", "{ type = 'blurpool', sigma = 0.0 }", "sigma: expected 0 < sigma");
  wrong("[1, 4, 4]", "{ type = 'blurpool', padding = 3 }", "more than half the window 5");
  wrong("[1, 4, 3]", "{ type = 'blurpool', padding = 0 }",
        "a window of 5 (sigma 0.66) does not fit into the input [1, 4, 3]");
  wrong("[1, 4, 4]", "{ type = 'upsample' }", "key \"size\" or \"scale\" is missing");
  wrong("[1, 4, 4]", "{ type = 'upsample', size = 8, scale = 3 }",
        "size: expected as scale says, [12, 12]");
  wrong("[1, 4, 4]", "{ type = 'upsample', scale = [2, 2, 2] }",
        "a number above 0 or 2 of them, found 3");
  wrong("[1, 4, 4]", "{ type = 'upsample', scale = -1 }", "scale: expected a number above 0");
  wrong("[1, 4, 4]", "{ type = 'upsample', scale = 0.2 }", "leaves nothing of the input [1, 4, 4]");
  wrong("[1, 4, 4]", "{ type = 'upsample', size = 8, mode = 'linar' }", "\"linear\"");
  const auto fields = [](const std::string& group) {
    return "{ type = 'steerable_conv', group = '" + group + "', out = '1 regular', padding = 1 }, ";
  };
  wrong("[1, 4, 4]", fields("C4") + "{ type = 'upsample', size = [8, 9] }",
        "size [8, 9] stretches the axes of [4, 4, 4] unequally, and C4 turns one into the other");
  wrong("[1, 4, 4]", fields("D2") + "{ type = 'upsample', size = [8, 9] }", "no error");
  wrong("[1, 4, 4]", fields("C8") + "{ type = 'upsample', size = 8, mode = 'nearest' }",
        "C8 turns squares by other than quarter turns: expected \"linear\"");
  wrong("[1, 4, 4]", fields("C8") + "{ type = 'upsample', size = 8 }", "no error");
  wrong("[1, 4, 4]", fields("C4") + "{ type = 'upsample', size = 8, mode = 'nearest' }",
        "no error");
  wrong("[1, 4, 4]", fields("C4") + "{ type = 'upsample', size = 6, mode = 'nearest' }",
        "others when reversed by C4: expected a multiple");
  wrong("[1, 4, 4]", fields("C1") + "{ type = 'upsample', size = 6, mode = 'nearest' }",
        "no error");
  wrong("[1, 4, 3]", "{ type = 'mask' }", "expected equal sides, found 4 and 3");
  wrong("[1, 4, 4]", "{ type = 'mask', margin = 101 }", "0 <= margin <= 100, found 101");
  wrong("[1, 4, 4]", "{ type = 'mask', sigma = 0 }", "sigma");
  wrong("[3, 4, 4]", "{ type = 'conv_transpose', out = 4, kernel = 3, groups = 2 }", "groups = 2");
  wrong("[3, 4, 4]", "{ type = 'conv_transpose', out = 4, kernel = 3, output_padding = 1 }",
        "output_padding: expected at most 0, less than stride or dilation, found 1");
  wrong("[3, 4, 4]", "{ type = 'conv_transpose', out = 4, kernel = 1, padding = 2 }",
        "padding [2, 2] leaves nothing of the output");
  wrong("[3, 4, 4]", "{ type = 'conv_transpose3d', out = 4, kernel = 1 }", "[C, D, H, W]");
  wrong("[1, 4, 4]",
        "{ type = 'steerable_conv_transpose', group = 'C4', out = '1 regular', output_padding = 1 "
        "}",
        "output_padding: expected at most 0");
  wrong("[1, 4, 4]",
        "{ type = 'steerable_conv_transpose', group = 'C4', out = '1 regular', kernel "
        "= 2 }",
        "odd size, found 2");
  wrong("[1, 4, 4]",
        "{ type = 'steerable_conv_transpose', group = 'C4', out = '1 regular', padding = 5 }",
        "leaves nothing of the output");
  wrong("[3, 4, 4]",
        "{ type = 'concat', of = [{ type = 'relu' }, { type = 'maxpool', kernel = 2 }] }",
        "pathway 1 gives [3, 2, 2], pathway 0 gives [3, 4, 4]");
  wrong("[3, 4, 4]", "{ type = 'concat', of = [{ type = 'relu' }, { type = 'flatten' }] }",
        "pathway 1 gives [48]");
  wrong("[3, 4, 4]", "{ type = 'restrict', group = 'C4' }", "key \"from\" is missing");
  wrong("[1, 4, 4]", fields("D4") + "{ type = 'restrict', group = 'C8' }",
        "C8 is no subgroup of D4");
  wrong("[1, 4, 4]", fields("D4") + "{ type = 'restrict' }", "key \"group\" is missing");
  wrong("[1, 4, 4]", fields("D4") + "{ type = 'restrict', group = 'C4', out = '1 regular' }",
        "fields of D4: 1 regular are 2 regular for C4, expected that in place of 1 regular");
  wrong("[1, 4, 4]",
        fields("D4") +
            "{ type = 'restrict', group = 'C4' }, { type = 'steerable_conv', group = "
            "'D4', out = '1 regular' }",
        "fields of D4, but what comes in are fields of C4: 2 regular");
}
