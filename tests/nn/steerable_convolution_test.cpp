// Steerable convolutions: equivariance field by field, He's variance, the plain convolution they
// are.
#include "nn/steerable_convolution.h"

#include "core/error.h"
#include "groups/grid_action.h"
#include "groups/kernel_basis.h"
#include "groups/planar.h"
#include "nn/field_activation.h"
#include "nn/field_basis.h"
#include "nn/field_norm.h"
#include "tests/catch.h"
#include "tests/nn/layer_examples.h"

using namespace evariste;

namespace {

/// g acting on images [n, C, S, S] or volumes of fields: pixels and channels.
Tensor acted(const Tensor& x, const FieldType& fields, const Element& g) {
  const auto index = grid_action(g, static_cast<int>(x.size(2)));
  REQUIRE(index);
  const auto moved = x.flatten(2).index_select(2, torch::tensor(*index));
  return as_tensor(fields.at(g)).matmul(moved).view(x.sizes());
}

void check_close(const Tensor& found, const Tensor& expected, double tolerance = 1e-11) {
  REQUIRE(found.sizes() == expected.sizes());
  CHECK((found - expected).abs().max().item<double>() <
        tolerance * (1 + expected.abs().max().item<double>()));
}

struct Case {
  const char* group;
  std::vector<std::string> in, out;
};
const Case kCases[] = {{"C4", {"3 trivial"}, {"2 regular"}},
                       {"C4", {"2 regular", "1 trivial"}, {"1 regular", "2 (1)"}},
                       {"D4", {"1 regular"}, {"2 regular"}},
                       {"D4", {"1 (1,1)", "1 /C2"}, {"1 /D1", "1 (0,2)"}},
                       {"C8", {"1 (1)", "1 (2)"}, {"1 regular"}},
                       {"SO(2)", {"2 trivial", "1 (1)"}, {"1 <2", "1 (3)"}},
                       {"O(2)", {"1 <2"}, {"1 trivial", "1 (1,0)", "1 (1,2)"}}};

std::shared_ptr<SteerableConv2d> conv_of(const Case& c, const SteerableConv2d::Options& options) {
  const auto group = make_group(c.group, 2);
  auto layer = std::make_shared<SteerableConv2d>(FieldType::parse(group, c.in),
                                                 FieldType::parse(group, c.out), options);
  layer->to(torch::kFloat64);
  torch::NoGradGuard no_grad;
  uint64_t seed = 3;
  for (auto& w : layer->parameters()) w.copy_(random_tensor(w.sizes(), seed++));
  return layer;
}

}  // namespace

TEST_CASE("turning the input turns the output, field by field", "[nn][steerable]") {
  torch::NoGradGuard no_grad;
  for (const auto& c : kCases)
    for (const int64_t kernel : {1, 3, 5}) {
      SteerableConv2d::Options options;
      options.kernel = kernel;
      options.padding = kernel / 2;
      std::shared_ptr<SteerableConv2d> layer;
      try {
        layer = conv_of(c, options);
      } catch (const UsageError&) {
        CHECK(kernel == 1);  // a point leads from one irrep to itself only
        continue;
      }
      CAPTURE(c.group, layer->in().text(), layer->out().text(), kernel);
      const auto x = random_tensor({2, layer->in().channels(), 7, 7}, 5);
      const auto y = layer->forward(x, nullptr);
      const auto grid = make_group("D4");
      int checked = 0;
      for (const auto& g : grid->elements()) {
        if (!layer->in().group->contains(g)) continue;
        check_close(layer->forward(acted(x, layer->in(), g), nullptr), acted(y, layer->out(), g));
        ++checked;
      }
      CHECK(checked >= 4);
    }
}

TEST_CASE("a steerable convolution is the plain one of its kernel", "[nn][steerable]") {
  torch::NoGradGuard no_grad;
  for (const auto& c : kCases) {
    SteerableConv2d::Options options;
    options.stride = 2, options.padding = 2, options.dilation = 2;
    const auto layer = conv_of(c, options);
    const auto x = random_tensor({2, layer->in().channels(), 8, 7}, 5);
    const auto [w, b] = layer->plain();
    check_close(layer->forward(x, nullptr), torch::conv2d(x, w, b, 2, 2, 2));
  }
}

TEST_CASE("turning a volume turns the output, field by field", "[nn][steerable]") {
  torch::NoGradGuard no_grad;
  const Case cases[] = {{"SO(3)", {"2 trivial", "1 (1)"}, {"1 <1", "1 (2)"}},
                        {"SO(3)", {"1 (2)"}, {"2 (1)", "1 (3)"}},
                        {"O(3)", {"1 (1,1)", "1 trivial"}, {"1 (0,1)", "1 (1,1)", "1 (0,2)"}},
                        {"O", {"1 trivial"}, {"1 regular", "1 T2"}},
                        {"Th", {"1 trivial"}, {"1 regular"}},
                        {"T", {"1 regular"}, {"1 E", "2 T"}},
                        {"C4", {"1 (1)"}, {"1 regular"}}};
  const auto cube = make_group("Oh", 3);
  for (const auto& c : cases) {
    const auto group = make_group(c.group, 3);
    SteerableOptions options;
    options.padding = 1;
    SteerableConv3d layer(FieldType::parse(group, c.in), FieldType::parse(group, c.out), options);
    layer.to(torch::kFloat64);
    uint64_t seed = 3;
    for (auto& w : layer.parameters()) w.copy_(random_tensor(w.sizes(), seed++));
    CAPTURE(c.group, layer.in().text(), layer.out().text());
    const auto x = random_tensor({2, layer.in().channels(), 5, 5, 5}, 5);
    const auto y = layer.forward(x, nullptr);
    const auto [w, b] = layer.plain();
    check_close(y, torch::conv3d(x, w, b, 1, 1));
    int checked = 0;
    for (const auto& g : cube->elements()) {
      if (!group->contains(g)) continue;
      check_close(layer.forward(acted(x, layer.in(), g), nullptr), acted(y, layer.out(), g));
      ++checked;
    }
    CHECK(checked >= 4);
  }
}

TEST_CASE("gates commute with every rotation", "[nn][steerable]") {
  torch::NoGradGuard no_grad;
  Draws draws(Stream(3));
  for (const auto& [name, kinds] : std::vector<std::pair<const char*, std::vector<std::string>>>{
           {"SO(3)", {"1 (1)", "5 trivial", "2 (2)"}},
           {"O(3)", {"3 trivial", "2 (1,1)", "1 (1,0)"}},
           {"SO(2)", {"2 trivial", "1 (3)", "1 (1)"}},
           {"D4", {"4 trivial", "2 (1,1)", "1 regular"}}}) {
    const auto fields = FieldType::parse(make_group(name), kinds);
    const GatedActivation gated(fields, "tanh");
    CAPTURE(fields.text(), gated.out().text());
    const auto x = random_tensor({4, fields.channels(), 6}, 3);
    const auto y = gated.forward(x, nullptr);
    CHECK(y.size(1) == gated.out().channels());
    for (int i = 0; i < 5; ++i) {
      const auto g = fields.group->sample(draws);
      check_close(gated.forward(as_tensor(fields.at(g)).matmul(x), nullptr),
                  as_tensor(gated.out().at(g)).matmul(y));
    }
  }
  // The last of the trivial channels are the gates, the others come first.
  const auto fields = FieldType::parse(make_group("SO(2)"), {"1 (1)", "2 trivial"});
  const auto y =
      GatedActivation(fields, "relu")
          .forward(torch::tensor({3.0, 4.0, -1.0, 0.0}, torch::kFloat64).view({1, 4}), nullptr);
  check_close(y, torch::tensor({0.0, 1.5, 2.0}, torch::kFloat64).view({1, 3}));
}

TEST_CASE("a network on volumes is invariant where its last fields are", "[nn][steerable]") {
  torch::NoGradGuard no_grad;
  const auto network = network_of(
      "input = [1, 6, 6, 6]\nlayer = [{ type = 'steerable_conv3d', group = 'SO(3)', padding = 1, "
      "out = ['4 trivial', '1 (1)', '1 (2)'] }, { type = 'gated' }, { type = 'avgpool3d', kernel = "
      "2 "
      "}, { type = 'steerable_conv3d', out = '3 trivial', padding = 1 }, { type = 'elu' }, { type "
      "= "
      "'global_avgpool' }, { type = 'linear', out = 3 }]");
  randomise(*network, 2);
  const auto x = random_tensor({2, 1, 6, 6, 6}, 7);
  const auto y = network->forward(x);
  const auto cube = make_group("O", 3);
  for (const auto& g : cube->elements())
    check_close(network->forward(acted(x, FieldType::trivial(cube, 1), g)), y);
}

TEST_CASE("a regular field of C4 shifts by one with a quarter turn", "[nn][steerable]") {
  torch::NoGradGuard no_grad;
  SteerableConv2d::Options options;
  options.padding = 1;
  const auto layer = conv_of({"C4", {"2 regular"}, {"3 regular"}}, options);
  const auto x = random_tensor({1, 8, 6, 6}, 1);
  const auto moved = x.unflatten(1, {2, 4}).roll(1, 2).flatten(1, 2).rot90(1, {2, 3});
  const auto y = layer->forward(x, nullptr).unflatten(1, {3, 4});
  check_close(layer->forward(moved, nullptr).unflatten(1, {3, 4}), y.roll(1, 2).rot90(1, {3, 4}));
}

TEST_CASE("fresh weights give every output irrep the variance of the input", "[nn][steerable]") {
  torch::NoGradGuard no_grad;
  for (const auto& c : kCases) {
    SteerableConv2d::Options options;
    options.kernel = 5;
    options.bias = false;
    const auto layer = conv_of(c, options);
    CAPTURE(c.group, layer->in().text(), layer->out().text());
    double mean = 0;
    constexpr int kDraws = 200;
    std::vector<Tensor> squares;
    for (int draw = 0; draw < kDraws; ++draw) {
      layer->visit_blocks([&](Block& block) {
        auto w = block.weight();
        w.copy_(random_tensor(w.sizes(), 100 + draw) / std::sqrt(double(w.size(1))));
      });
      // For white inputs of variance one: the sum of squares of a channel's kernel.
      squares.push_back(layer->plain().first.square().sum({1, 2, 3}));
    }
    const auto variance = torch::stack(squares).mean(0);
    mean = variance.mean().item<double>();
    CHECK(mean == Approx(1).epsilon(0.15));
    // Within a kind channels of one irrep alike; all irreps alike on average over the field.
    int64_t first = 0;
    for (const auto& kind : layer->out().kinds) {
      const auto part = variance.narrow(0, first, kind.channels()).mean().item<double>();
      CHECK(part == Approx(1).epsilon(0.25));
      first += kind.channels();
    }
  }
}

TEST_CASE("the parts of the kernels of a finite group are all kernels of their rings",
          "[nn][steerable]") {
  torch::NoGradGuard no_grad;
  for (const char* name : {"C4", "D4", "C3"}) {
    const auto group = make_group(name);
    const auto regular = FieldType::parse(group, {"1 regular"});
    int64_t weights = 0;
    std::vector<Tensor> kernels;
    for (const auto& irrep : group->irreps(group->largest_band())) {
      SteerableConv2d::Options options;
      options.isotypic = irrep.name;
      SteerableConv2d layer(regular, regular, options);
      layer.to(torch::kFloat64);
      auto weight = layer.named_parameters()["weight"];
      CHECK(layer.named_parameters().contains("bias") == irrep.is_trivial);
      for (int64_t j = 0; j < weight.numel(); ++j) {
        weight.zero_();
        weight[0][j] = 1;
        kernels.push_back(layer.plain().first.flatten().clone());
      }
      weights += weight.numel();
    }
    CAPTURE(name);
    CHECK(weights == group->order() * group->order() * 6);  // six scalar kernels of size 3
    CHECK(at::linalg_matrix_rank(torch::stack(kernels)).item<int64_t>() == weights);
  }
}

TEST_CASE("the largest of a field is invariant under its permutations", "[nn][steerable]") {
  torch::NoGradGuard no_grad;
  const auto group = make_group("D4");
  const auto fields = FieldType::parse(group, {"2 regular", "3 trivial", "1 /C2"});
  const FieldPool pool(fields);
  const auto x = random_tensor({2, fields.channels(), 5, 5}, 4);
  const auto y = pool.forward(x, nullptr);
  CHECK(y.size(1) == 6);
  for (const auto& g : group->elements())
    check_close(pool.forward(acted(x, fields, g), nullptr),
                acted(y, FieldType::trivial(group, 6), g));
}

TEST_CASE("a network of steerable layers is invariant where its last fields are",
          "[nn][steerable]") {
  torch::NoGradGuard no_grad;
  for (const char* group : {"C4", "D4"}) {
    const auto network = network_of(fmt::format(
        "input = [1, 9, 9]\nlayer = [{{ type = 'steerable_conv', group = '{}', out = '3 regular', "
        "kernel = 5, padding = 2 }}, {{ type = 'relu' }}, {{ type = 'maxpool', kernel = 3, stride "
        "= 2 "
        "}}, {{ type = 'steerable_conv', out = ['2 regular', '2 trivial'], padding = 1 }}, {{ type "
        "= "
        "'elu' }}, {{ type = 'field_pool' }}, {{ type = 'global_avgpool' }}, {{ type = 'linear', "
        "out "
        "= 3 }}]",
        group));
    randomise(*network, 2);
    const auto x = random_tensor({3, 1, 9, 9}, 7);
    const auto y = network->forward(x);
    const auto grid = make_group(group);
    for (const auto& g : grid->elements())
      check_close(network->forward(acted(x, FieldType::trivial(grid, 1), g)), y);
  }
}

TEST_CASE("a Fourier activation commutes with its grid, and with all turns the better the finer",
          "[nn][steerable]") {
  torch::NoGradGuard no_grad;
  for (const char* name : {"SO(2)", "O(2)"}) {
    const auto group = make_group(name);
    const auto fields = FieldType::parse(group, {"2 <2", "1 trivial"});
    const auto x = random_tensor({50, fields.channels()}, 3);
    const auto error = [&](int64_t samples, const Element& g) {
      const FourierActivation activation(fields, "relu", samples);
      const auto matrix = as_tensor(fields.at(g));
      const auto y = activation.forward(x, nullptr), moved = x.matmul(matrix.t());
      return (activation.forward(moved, nullptr) - y.matmul(matrix.t())).norm().item<double>() /
             y.norm().item<double>();
    };
    const auto& planar = dynamic_cast<const PlanarGroup&>(*group);
    for (int i = 0; i < 12; ++i) {
      const auto g =
          planar.element(2 * std::acos(-1.0) * i / 12, planar.has_reflections() && i % 2);
      CHECK(error(0, g) < 1e-12);  // twelve by default
    }
    const auto between = planar.element(0.1);
    CAPTURE(name);
    CHECK(error(6, between) > 0.03);
    CHECK(error(24, between) < 0.25 * error(6, between));
    // At the values a relu acts pointwise: a positive function stays what it is.
    auto positive = torch::zeros({1, fields.channels()}, torch::kFloat64);
    positive[0][0] = 1;
    positive[0][1] = 0.3;
    CHECK(torch::allclose(FourierActivation(fields, "relu").forward(positive, nullptr), positive));
  }
}

TEST_CASE("layers of fields do not depend on how images lie in memory", "[nn][steerable]") {
  torch::NoGradGuard no_grad;
  const auto group = make_group("O(2)");
  const auto fields = FieldType::parse(group, {"2 <2", "3 trivial"});
  const FourierActivation activation(fields, "elu");
  const auto x = random_tensor({3, fields.channels(), 4, 5}, 4);
  const auto last = x.contiguous(at::MemoryFormat::ChannelsLast);
  Tape rows, channels;
  check_close(activation.forward(last, &channels), activation.forward(x, &rows));
  const auto g = random_tensor({6, fields.channels(), 4, 5}, 5);
  const auto g_last = g.contiguous(at::MemoryFormat::ChannelsLast);
  const auto ignore = [](const Block&, const Tensor&, const Tensor&) {};
  const auto expected = activation.backward(unfold(g, 2), rows, ignore, true);
  check_close(activation.backward(unfold(g_last, 2), channels, ignore, true), expected);
  const auto tangent = activation.jvp(unfold(g, 2), rows, Tangents());
  check_close(activation.jvp(unfold(g_last, 2), channels, Tangents()), tangent);
}

TEST_CASE("batch normalisation of fields commutes with their permutations, and trains",
          "[nn][steerable]") {
  torch::NoGradGuard no_grad;
  const auto group = make_group("D4");
  const auto fields = FieldType::parse(group, {"2 regular", "3 trivial", "1 /C2"});
  FieldNorm norm(fields, {fields.channels(), 5, 5}, 1e-3, true, 0.2);
  norm.to(torch::kFloat64);
  uint64_t seed = 3;
  for (auto& w : norm.parameters()) w.copy_(random_tensor(w.sizes(), seed++));
  CHECK(norm.named_parameters()["0.weight"].numel() == 2);
  const auto x = random_tensor({4, fields.channels(), 5, 5}, 4);
  for (const bool training : {true, false}) {
    norm.train(training);
    const auto y = norm.forward(x, nullptr);
    for (const auto& g : group->elements())
      check_close(norm.forward(acted(x, fields, g), nullptr), acted(y, fields, g));
  }
  norm.train();
  const auto y = norm.forward(x, nullptr);  // by its definition, the first field
  const auto first = x.narrow(1, 0, 8);
  const auto scaled = (first - first.mean()) / (first.var(false) + 1e-3).sqrt();
  const auto parameters = norm.named_parameters();
  check_close(y.narrow(1, 0, 8), parameters["0.weight"][0] * scaled + parameters["0.bias"][0]);
}

TEST_CASE("parameters of steerable convolutions are counted by the kernels", "[nn][steerable]") {
  const auto network = network_of(
      "input = [1, 29, 29]\nlayer = [{ type = 'steerable_conv', group = 'C8', out = '4 regular', "
      "kernel = 7 }, { type = 'relu' }, { type = 'steerable_conv', out = '6 regular', kernel = 5 "
      "}, "
      "{ type = 'field_pool' }, { type = 'global_avgpool' }, { type = 'linear', out = 10 }]");
  const auto sizes = network->named_parameters();
  CHECK(sizes["0.weight"].sizes() == at::IntArrayRef({4, 18}));
  CHECK(sizes["0.bias"].numel() == 4);
  CHECK(sizes["2.weight"].sizes() == at::IntArrayRef({6, 4 * 88}));
}

TEST_CASE("steerable layers say what does not commute with their fields", "[nn][steerable]") {
  const auto wrong = [](const std::string& layers, const std::string& message) {
    CAPTURE(layers);
    CHECK_THROWS_WITH(network_of("input = [1, 5, 5]\nlayer = [" + layers + "]"), Contains(message));
  };
  const std::string vectors =
      "{ type = 'steerable_conv', group = 'SO(2)', out = ['2 trivial', '1 (1)'] }, ";
  const std::string regular = "{ type = 'steerable_conv', group = 'C4', out = '2 regular' }, ";
  wrong(vectors + "{ type = 'relu' }", "relu does not commute with SO(2): 2 trivial, 1 (1)");
  wrong(vectors + "{ type = 'maxpool', kernel = 2 }", "maxpool does not commute");
  wrong(vectors + "{ type = 'field_pool' }", "not made of permutations");
  wrong(vectors + "{ type = 'fourier' }", "(1) fields are no functions on SO(2)");
  wrong("{ type = 'fourier', group = 'SO(2)', in = '1 <0', samples = 0, activation = 'gel' }",
        "did you mean \"gelu\"");
  wrong(
      "{ type = 'steerable_conv', group = 'SO(2)', out = '1 <2' }, { type = 'fourier', samples = 4 "
      "}",
      "at least 5 for <2 fields, found 4");
  wrong(regular + "{ type = 'layernorm' }", "a weight for every channel");
  wrong("{ type = 'field_pool' }", "key \"group\" is missing");
  wrong("{ type = 'steerable_conv', group = 'C4', in = '1 (1)', out = '1 regular' }",
        "fields of C4: 1 (1) have 2 channels, the input [1, 5, 5] has 1");
  wrong(regular + "{ type = 'field_pool', in = '4 (2)' }", "but what comes in are fields of C4: 2");
  wrong(regular + "{ type = 'steerable_conv', group = 'C8', out = '1 regular' }",
        "fields of C8, but what comes in are fields of C4: 2 regular");
  wrong("{ type = 'steerable_conv', out = '1 regular' }", "key \"group\" is missing");
  wrong("{ type = 'steerable_conv', group = 'C4', out = '1 regular', kernel = 2 }",
        "odd size, found 2");
  wrong("{ type = 'steerable_conv', group = 'SO(2)', out = '1 regular' }", "\"<L\"");
  wrong("{ type = 'steerable_conv', group = 'C4', out = 'regular' }", "\"4 regular\"");
  wrong(regular + "{ type = 'steerable_conv', out = '1 regular', isotypic = '(1,0)' }",
        "irrep of C4: expected one of (0) (1) (2)");
  wrong(
      "{ type = 'steerable_conv', group = 'C4', out = '1 trivial', isotypic = '(1)', kernel = 1 }",
      "no kernel of size 1 and irrep (1) leads");
  wrong("{ type = 'steerable_conv', group = 'C4', out = '1 (5)' }", "(0) (1) (2)");
  wrong("{ type = 'steerable_conv', group = 'O(2)', out = '1 (1,0)' }",
        "no kernel of size 3 leads");
  wrong("{ type = 'steerable_conv', group = 'T', out = '1 trivial' }", "acts on space");
  wrong("{ type = 'steerable_conv3d', group = 'T', out = '1 trivial' }",
        "expected an input [C, D, H, W], got [1, 5, 5]");
  wrong("{ type = 'gated', group = 'SO(2)' }", "for each a trivial channel as its gate");
  wrong(
      "{ type = 'steerable_conv', group = 'SO(2)', out = ['1 trivial', '2 (1)'] }, { type = "
      "'gated' }",
      "found SO(2): 1 trivial, 2 (1)");
  wrong("{ type = 'steerable_conv', group = 'C4', out = [1] }", "expected \"NUMBER KIND\"");
}
