// Layers on fields of any kind: they commute with every element, exactly, and are what their
// formulas say.
#include "core/error.h"

#include <torch/csrc/autograd/autograd.h>
#include "groups/grid_action.h"
#include "nn/field_basis.h"
#include "nn/field_dropout.h"
#include "nn/field_length.h"
#include "nn/field_norm.h"
#include "nn/field_product.h"
#include "tests/catch.h"
#include "tests/nn/layer_examples.h"

using namespace evariste;

namespace {

/// g acting on vectors, images or volumes of fields, [n, C, ...]: pixels and channels.
Tensor acted(const Tensor& x, const FieldType& fields, const Element& g) {
  auto moved = x.reshape({x.size(0), x.size(1), -1});
  if (x.dim() > 2) {
    const auto index = grid_action(g, static_cast<int>(x.size(2)));
    REQUIRE(index);
    moved = moved.index_select(2, torch::tensor(*index));
  }
  return as_tensor(fields.at(g)).matmul(moved).view(x.sizes());
}

void check_close(const Tensor& found, const Tensor& expected, double tolerance = 1e-11) {
  REQUIRE(found.sizes() == expected.sizes());
  CHECK((found - expected).abs().max().item<double>() <
        tolerance * (1 + expected.abs().max().item<double>()));
}

Tensor numbers(std::vector<double> values, at::IntArrayRef shape) {
  return torch::tensor(values, torch::kFloat64).view(shape);
}

struct Case {
  const char* group;
  int dimension;
  std::vector<std::string> kinds;
};
const Case kCases[] = {{"C4", 2, {"2 regular", "1 (1)", "2 trivial"}},
                       {"D4", 2, {"1 (1,1)", "1 regular+(1,1)", "1 /C2"}},
                       {"C3", 2, {"2 (1)", "1 <1"}},
                       {"SO(2)", 2, {"2 trivial", "1 <2", "2 (3)"}},
                       {"O(2)", 2, {"1 (1,2)", "2 (1,0)", "1 <1"}},
                       {"T", 3, {"1 regular", "2 T"}},
                       {"O", 3, {"2 T1", "1 trivial", "1 E+T2"}},
                       {"SO(3)", 3, {"2 (1)", "3 trivial", "1 (2)", "1 <1"}},
                       {"O(3)", 3, {"1 (1,1)", "2 (1,0)", "1 (0,2)"}},
                       {"D4", 3, {"1 (1,1)", "1 regular"}}};

struct Named {
  std::string name;
  std::shared_ptr<Layer> layer;
  FieldType out;
};

/// Every layer of this file on these fields, in float64 with random parameters and statistics.
std::vector<Named> layers_on(const FieldType& in, const std::vector<int64_t>& shape) {
  torch::NoGradGuard no_grad;
  const auto scalars = FieldType::trivial(in.group, in.fields());
  const auto product = std::make_shared<FieldProduct>(in, true);
  const auto square = std::make_shared<FieldProduct>(in, false);
  std::vector<Named> out = {
      {"norm_pool", std::make_shared<FieldLength>(in), scalars},
      {"tensor_product", product, product->out()},
      {"tensor_product without x", square, square->out()},
      {"batchnorm", std::make_shared<FieldNorm>(in, shape, 1e-3, true, 0.2), in},
      {"batchnorm without weights", std::make_shared<FieldNorm>(in, shape, 1e-3, false, 0.2), in},
      {"field_dropout", std::make_shared<FieldDropout>(in, 0.4), in}};
  for (const auto& kind : NormActivation::kinds())
    out.push_back({"norm_activation " + kind,
                   std::make_shared<NormActivation>(in, kind, kind != "squash"), in});
  for (const auto& each : out) {
    each.layer->to(torch::kFloat64);
    uint64_t seed = 3;
    for (auto& w : each.layer->parameters()) w.copy_(0.7 * random_tensor(w.sizes(), seed++));
    for (const auto& item : each.layer->named_buffers())
      if (item.key().find("running") != std::string::npos)
        item.value().copy_(random_tensor(item.value().sizes(), seed++).abs());
  }
  return out;
}

}  // namespace

TEST_CASE("layers on fields commute with every element", "[nn][fields]") {
  torch::NoGradGuard no_grad;
  Draws draws(Stream(3));
  for (const auto& c : kCases) {
    const auto in = FieldType::parse(make_group(c.group, c.dimension), c.kinds);
    for (const auto& [name, layer, out] : layers_on(in, {in.channels()})) {
      CAPTURE(in.text(), name);
      const auto x = random_tensor({6, in.channels()}, 5);
      for (const bool training : {false, true}) {
        layer->train(training);
        const auto applied = [&](const Tensor& t) {
          torch::manual_seed(4);  // the same fields are dropped
          return layer->forward(t, nullptr);
        };
        const auto y = applied(x);
        CHECK(y.size(1) == out.channels());
        for (int i = 0; i < 5; ++i) {
          const auto g = in.group->sample(draws);
          check_close(applied(acted(x, in, g)), acted(y, out, g));
        }
      }
    }
  }
}

TEST_CASE("layers on fields commute with what turns a grid", "[nn][fields]") {
  torch::NoGradGuard no_grad;
  for (const auto& c : kCases) {
    const auto in = FieldType::parse(make_group(c.group, c.dimension), c.kinds);
    std::vector<int64_t> shape(static_cast<size_t>(c.dimension) + 1, c.dimension == 2 ? 5 : 3);
    shape[0] = in.channels();
    auto batch = shape;
    batch.insert(batch.begin(), 2);
    const auto x = random_tensor(batch, 5);
    const auto grid = c.dimension == 2 ? make_group("D4") : make_group("Oh", 3);
    int checked = 0;
    for (const auto& [name, layer, out] : layers_on(in, shape)) {
      CAPTURE(in.text(), name);
      layer->eval();
      const auto y = layer->forward(x, nullptr);
      for (const auto& g : grid->elements()) {
        if (!in.group->contains(g)) continue;
        check_close(layer->forward(acted(x, in, g), nullptr), acted(y, out, g));
        ++checked;
      }
    }
    CHECK(checked >= (c.group == std::string("C3") ? 1 : 4));
  }
}

TEST_CASE("layers on fields do not depend on memory layout or precision", "[nn][fields]") {
  torch::NoGradGuard no_grad;
  const auto in = FieldType::parse(make_group("O(2)"), {"2 <1", "3 trivial", "1 (1,2)"});
  const auto x = random_tensor({3, in.channels(), 4, 5}, 4);
  const auto ignore = [](const Block&, const Tensor&, const Tensor&) {};
  for (const auto& [name, layer, out] : layers_on(in, {in.channels(), 4, 5})) {
    CAPTURE(name);
    layer->eval();
    const auto passed = [&](const Tensor& input, torch::ScalarType type) {
      layer->to(type);
      Tape tape;
      const auto images = input.to(type);
      const auto y = layer->forward(images, &tape);
      const auto g = random_tensor({6, out.channels(), 4, 5}, 5).to(type);
      const auto dx = random_tensor({6, in.channels(), 4, 5}, 6).to(type);
      const auto as_x = [&](const Tensor& t) {
        return unfold(t.contiguous(images.suggest_memory_format()), 2);
      };
      return std::vector<Tensor>{y, layer->backward(as_x(g), tape, ignore, true),
                                 layer->jvp(as_x(dx), tape, Tangents())};
    };
    const auto rows = passed(x, torch::kFloat64);
    const auto last = passed(x.contiguous(at::MemoryFormat::ChannelsLast), torch::kFloat64);
    const auto single = passed(x, torch::kFloat32);
    for (size_t i = 0; i < rows.size(); ++i) {
      check_close(last[i], rows[i]);
      CHECK(single[i].scalar_type() == torch::kFloat32);
      check_close(single[i].to(torch::kFloat64), rows[i], 1e-5);
    }
  }
}

TEST_CASE("a nonlinearity of lengths scales fields and takes other channels as numbers",
          "[nn][fields]") {
  torch::NoGradGuard no_grad;
  const auto fields = FieldType::parse(make_group("SO(2)"), {"1 (1)", "1 trivial", "1 (2)"});
  const auto x = numbers({3, 4, -2, 0.3, -0.4}, {1, 5});
  const auto of = [&](const char* kind, std::vector<double> bias) {
    NormActivation layer(fields, kind, !bias.empty());
    layer.to(torch::kFloat64);
    if (!bias.empty()) layer.named_parameters()["bias"].copy_(numbers(bias, {2}));
    return layer.forward(x, nullptr);
  };
  check_close(of("relu", {-2, -1}), numbers({9. / 5, 12. / 5, 0, 0, 0}, {1, 5}));
  check_close(of("relu", {1, 0.5}), numbers({18. / 5, 24. / 5, 0, 0.6, -0.8}, {1, 5}));
  const auto sigmoid = [](double u) { return 1 / (1 + std::exp(-u)); };
  const double long_one = sigmoid(4.5) / 5, short_one = sigmoid(0.75) / 0.5;
  check_close(of("sigmoid", {-0.5, 0.25}),
              numbers({3 * long_one, 4 * long_one, sigmoid(-2), 0.3 * short_one, -0.4 * short_one},
                      {1, 5}));
  const double soft = std::log1p(std::exp(5.)) / 5, softer = std::log1p(std::exp(0.5)) / 0.5;
  check_close(of("softplus", {}),
              numbers({3 * soft, 4 * soft, std::log1p(std::exp(-2.)), 0.3 * softer, -0.4 * softer},
                      {1, 5}));
  check_close(of("squash", {}), numbers({3. / 6, 4. / 6, -2. / 3, 0.3 / 1.5, -0.4 / 1.5}, {1, 5}));
}

TEST_CASE("a fresh nonlinearity of lengths cuts off no field, however short", "[nn][fields]") {
  // With |x| - exp(beta), beta = 0, everything shorter than 1 would be 0.
  const auto fields = FieldType::parse(make_group("SO(3)"), {"3 (1)", "1 (2)"});
  NormActivation relu(fields, "relu", true);
  relu.to(torch::kFloat64);
  CHECK(relu.named_parameters()["bias"].sizes() == at::IntArrayRef({4}));
  const auto x = (1e-3 * random_tensor({5, fields.channels(), 2, 2, 2}, 3)).requires_grad_();
  const auto y = relu.forward(x, nullptr);
  check_close(y, x.detach(), 1e-15);
  const auto found = torch::autograd::grad({(y * y).sum()}, {x, relu.parameters()[0]});
  check_close(found[0], 2 * x.detach(), 1e-13);
  CHECK(found[1].abs().min().item<double>() > 0);
}

TEST_CASE("fields of length zero stay there, without a NaN", "[nn][fields]") {
  const auto fields = FieldType::parse(make_group("SO(2)"), {"2 (1)", "1 trivial"});
  for (const auto& [name, layer, out] : layers_on(fields, {fields.channels()})) {
    CAPTURE(name);
    layer->eval();
    auto x = random_tensor({2, 5}, 3);
    x.narrow(1, 0, 2).zero_();
    x.requires_grad_();
    Tape tape;
    const auto y = layer->forward(x, &tape);
    const auto g = random_tensor({1, 2, out.channels()}, 4);
    const auto expected = torch::autograd::grad({y}, {x}, {g[0]})[0];
    CHECK(expected.isfinite().all().item<bool>());
    torch::NoGradGuard no_grad;
    const auto ignore = [](const Block&, const Tensor&, const Tensor&) {};
    check_close(layer->backward(g, tape, ignore, true)[0], expected);
    if (name.starts_with("norm_activation"))
      CHECK(y.narrow(1, 0, 2).count_nonzero().item<int64_t>() == 0);
  }
  const auto tiny = numbers({5.9e-11, 7.9e-11, 6e-10, 8e-10, 0}, {1, 5});
  const auto y = NormActivation(fields, "softplus", false).forward(tiny, nullptr);
  CHECK(y[0][0].item<double>() == 0);  // shorter than 1e-10
  CHECK(y[0][2].item<double>() == Approx(0.6 * std::log(2)));
  CHECK(FieldLength(fields).forward(tiny, nullptr)[0][0].item<double>() == 0);
}

TEST_CASE("norm pooling gives the length of every field", "[nn][fields]") {
  torch::NoGradGuard no_grad;
  const auto fields = FieldType::parse(make_group("O(2)"), {"2 (1,1)", "1 (1,0)", "1 trivial"});
  const auto x = numbers({3, 4, -5, 12, -7, 2}, {1, 6});
  check_close(FieldLength(fields).forward(x, nullptr), numbers({5, 13, 7, 2}, {1, 4}));
}

TEST_CASE("batch normalisation of fields is its definition", "[nn][fields]") {
  torch::NoGradGuard no_grad;
  // <1 of O(2): (0,0), (1,0), (1,1) twice; one channel of six does not transform.
  const auto fields = FieldType::parse(make_group("O(2)"), {"2 <1", "1 (1,2)", "2 trivial"});
  FieldNorm norm(fields, {fields.channels(), 3, 3}, 1e-3, true, 0.2);
  norm.to(torch::kFloat64);
  uint64_t seed = 3;
  for (auto& w : norm.parameters()) w.copy_(random_tensor(w.sizes(), seed++));
  const auto parameters = norm.named_parameters();
  CHECK(parameters["0.weight"].sizes() == at::IntArrayRef({2}));
  CHECK(parameters["0.bias"].sizes() == at::IntArrayRef({2}));
  CHECK_FALSE(parameters.contains("1.bias"));  // a vector has nothing to add to
  const auto x = random_tensor({4, fields.channels(), 3, 3}, 4) + 0.8;
  norm.train();
  const auto y = norm.forward(x, nullptr);
  const auto buffers = norm.named_buffers();
  for (int64_t f = 0; f < 2; ++f) {
    const auto field = x.narrow(1, 6 * f, 6);
    auto centred = field.clone();
    const auto mean = field.select(1, 0).mean();
    centred.select(1, 0) -= mean;
    const auto variance = centred.square().mean();
    auto expected = parameters["0.weight"][f] * centred / (variance + 1e-3).sqrt();
    expected.select(1, 0) += parameters["0.bias"][f];
    check_close(y.narrow(1, 6 * f, 6), expected);
    const double count = 4 * 9 * 6;
    check_close(buffers["0.running_mean"][f][0], 0.2 * mean);
    check_close(buffers["0.running_var"][f], 0.8 + 0.2 * variance * count / (count - 1));
  }
  const auto vector = x.narrow(1, 12, 2);
  const auto square = vector.square().mean();  // about 0, not about its mean
  check_close(y.narrow(1, 12, 2), parameters["1.weight"][0] * vector / (square + 1e-3).sqrt());
  check_close(buffers["1.running_var"][0], 0.8 + 0.2 * square);
  CHECK_FALSE(buffers.contains("1.running_mean"));
  CHECK(buffers["1.num_batches_tracked"].item<int64_t>() == 1);
  norm.eval();
  const auto kept = norm.forward(x, nullptr).narrow(1, 12, 2);
  check_close(kept,
              parameters["1.weight"][0] * vector / (buffers["1.running_var"][0] + 1e-3).sqrt());
}

TEST_CASE("batch normalisation of fields is that of permutations in the basis of their irreps",
          "[nn][fields]") {
  torch::NoGradGuard no_grad;
  const auto group = make_group("D4");
  const auto regular = FieldType::parse(group, {"3 regular"}),
             spectral = FieldType::parse(group, {"3 <2"});
  FieldNorm permuted(regular, {24}, 1e-3, true, 0.3), turned(spectral, {24}, 1e-3, true, 0.3);
  permuted.to(torch::kFloat64);
  turned.to(torch::kFloat64);
  const auto w = random_tensor({3}, 1), b = random_tensor({3}, 2);
  permuted.named_parameters()["0.weight"].copy_(w);
  permuted.named_parameters()["0.bias"].copy_(b);
  turned.named_parameters()["0.weight"].copy_(w);
  turned.named_parameters()["0.bias"].copy_(std::sqrt(8.) * b);  // of a column of length 1
  const auto basis = as_tensor(regular.kinds[0].representation.basis());
  const auto to_irreps = [&](const Tensor& x) {
    return x.view({-1, 3, 8}).matmul(basis).flatten(1);
  };
  for (const bool training : {true, false}) {
    permuted.train(training);
    turned.train(training);
    const auto x = random_tensor({7, 24}, 3) + 0.5;
    check_close(turned.forward(to_irreps(x), nullptr), to_irreps(permuted.forward(x, nullptr)));
  }
}

TEST_CASE("the gradient goes through the statistics of a batch of fields", "[nn][fields]") {
  const auto fields = FieldType::parse(make_group("O(2)"), {"2 <1", "1 (1,2)"});
  FieldNorm norm(fields, {fields.channels(), 2, 2}, 0, true, 0.1);
  norm.to(torch::kFloat64);
  norm.train();
  const auto x = random_tensor({3, fields.channels(), 2, 2}, 3).requires_grad_();
  const auto c = random_tensor(x.sizes(), 4);
  const auto loss = [&](const Tensor& input) { return (c * norm.forward(input, nullptr)).sum(); };
  const auto dx = torch::autograd::grad({loss(x)}, {x})[0];
  torch::NoGradGuard no_grad;
  // The output stays what it is where a field is scaled or its invariant part shifted.
  for (const auto& [first, size] : {std::pair{0, 6}, {6, 6}, {12, 2}})
    CHECK(std::abs((dx * x).narrow(1, first, size).sum().item<double>()) < 1e-11);
  for (const int64_t channel : {0, 6})
    CHECK(std::abs(dx.select(1, channel).sum().item<double>()) < 1e-11);
  CHECK(std::abs(dx.select(1, 1).sum().item<double>()) > 1e-3);
  const auto direction = random_tensor(x.sizes(), 5);
  const double difference =
      (loss(x + 1e-5 * direction) - loss(x - 1e-5 * direction)).item<double>() / 2e-5;
  CHECK((dx * direction).sum().item<double>() == Approx(difference).epsilon(1e-7));
}

TEST_CASE("batch normalisation of fields in training mode is refused on a tape", "[nn][fields]") {
  const auto fields = FieldType::parse(make_group("SO(2)"), {"2 (1)"});
  FieldNorm norm(fields, {4}, 1e-3, true, 0.1);
  norm.train();
  Tape tape;
  CHECK_THROWS_WITH(norm.forward(torch::ones({3, 4}), &tape), Contains("call eval()"));
}

TEST_CASE("products of fields are those of their components, in fields that a file may name",
          "[nn][fields]") {
  torch::NoGradGuard no_grad;
  Draws draws(Stream(3));
  for (const auto& c : kCases) {
    const auto in = FieldType::parse(make_group(c.group, c.dimension), c.kinds);
    const FieldProduct product(in, false);
    std::vector<std::string> words;
    for (const auto& kind : product.out().kinds)
      words.push_back(fmt::format("{} {}", kind.count, kind.name));
    CAPTURE(in.text(), product.out().text());
    const auto read = FieldType::parse(in.group, words);
    CHECK(read.text() == product.out().text());
    const auto g = in.group->sample(draws);
    CHECK((read.at(g) - product.out().at(g)).cwiseAbs().maxCoeff() < 1e-12);
    // |C (x (x) x)| = |x|^2, field by field.
    const auto x = random_tensor({4, in.channels(), 3}, 5);
    const auto lengths = FieldLength(in).forward(x, nullptr);
    const auto of_products =
        FieldLength(product.out()).forward(product.forward(x, nullptr), nullptr);
    check_close(of_products, lengths.square());
  }
  const auto vectors = FieldType::parse(make_group("SO(2)"), {"1 trivial", "1 (1)"});
  const FieldProduct product(vectors, true);
  CHECK(product.out().text() == "SO(2): 1 trivial, 1 (1), 1 trivial, 1 (1)^2");
  const auto y = product.forward(numbers({-2, 3, 4}, {1, 3}), nullptr);
  check_close(y.narrow(1, 0, 4), numbers({-2, 3, 4, 4}, {1, 4}));
  const double root = std::sqrt(0.5);
  check_close(y.narrow(1, 4, 3).abs(), numbers({25 * root, 7 * root, 24 * root}, {1, 3}));
}

TEST_CASE("a field of a sum of kinds transforms as its parts do", "[nn][fields]") {
  Draws draws(Stream(5));
  for (const auto& [name, dimension, sum, parts] :
       std::vector<std::tuple<const char*, int, const char*, std::vector<std::string>>>{
           {"SO(2)", 2, "1 (0)+(2)", {"1 (0)", "1 (2)"}},
           {"D4", 2, "1 regular+/C2+(1,1)", {"1 regular", "1 /C2", "1 (1,1)"}},
           {"O(3)", 3, "1 (1,1)+<1", {"1 (1,1)", "1 <1"}},
           {"C4", 2, "1 (1)^2+(1)", {"1 (1)^2", "1 (1)"}}}) {
    const auto group = make_group(name, dimension);
    const auto field = FieldType::parse(group, {sum}), fields = FieldType::parse(group, parts);
    CAPTURE(name, sum);
    CHECK(field.fields() == 1);
    CHECK(field.channels() == fields.channels());
    CHECK(field.is_permutation() == fields.is_permutation());
    for (int i = 0; i < 3; ++i) {
      const auto g = group->sample(draws);
      CHECK((field.at(g) - fields.at(g)).cwiseAbs().maxCoeff() < 1e-12);
    }
  }
  const auto group = make_group("C4");
  CHECK(FieldType::parse(group, {"1 regular+trivial"}).is_permutation());
  CHECK(FieldType::parse(group, {"2 [(1)+(2)]^2"}).channels() == 12);
  CHECK_THROWS_WITH(FieldType::parse(group, {"1 (1)+"}), Contains("(0) (1) (2)"));
  CHECK_THROWS_WITH(FieldType::parse(group, {"1 (1)+(7)"}), Contains("(0) (1) (2)"));
  CHECK_THROWS_WITH(FieldType::parse(make_group("C8"), {"1 regular^2^2^2"}),
                    Contains("at most 64"));
}

TEST_CASE("dropout of fields drops all channels and pixels of a field together", "[nn][fields]") {
  torch::manual_seed(1);
  torch::NoGradGuard no_grad;
  const auto fields = FieldType::parse(make_group("SO(2)"), {"300 (1)", "200 trivial", "100 <1"});
  FieldDropout dropout(fields, 0.25);
  const auto x = torch::ones({20, fields.channels(), 2, 3}, torch::kFloat64);
  Tape tape;
  dropout.train();
  const auto y = dropout.forward(x, &tape);
  int64_t first = 0;
  for (const auto& kind : fields.kinds) {
    const auto each = y.narrow(1, first, kind.channels())
                          .reshape({20, kind.count, kind.representation.size() * 6});
    check_close(each.amax(2), each.amin(2));
    first += kind.channels();
  }
  const auto values = std::get<0>(at::_unique(y));
  check_close(values, numbers({0, 4. / 3}, {2}));
  const auto lengths = FieldLength(fields).forward(y, nullptr) > 0;  // of 12000 fields
  CHECK(lengths.to(torch::kFloat64).mean().item<double>() == Approx(0.75).margin(0.02));
  CHECK_FALSE(torch::equal(y[0], y[1]));  // each sample by itself
  const auto ignore = [](const Block&, const Tensor&, const Tensor&) {};
  CHECK(torch::equal(dropout.backward(x.unsqueeze(0), tape, ignore, true)[0], y));
  CHECK(torch::equal(dropout.jvp(x.unsqueeze(0), tape, Tangents())[0], y));
  dropout.eval();
  CHECK(torch::equal(dropout.forward(x, nullptr), x));
  CHECK(dropout.varies_in_training() == "field_dropout");
  // Without fields, channels.
  const auto network = network_of(
      "input = [400, 2, 2]\nlayer = [{ type = 'field_dropout', p = 0.5 }, { type = 'flatten' }]");
  network->train();
  const auto images = network->forward(torch::ones({1, 400, 2, 2})).view({400, 4});
  CHECK(torch::equal(images.amax(1), images.amin(1)));
  CHECK(images.mean().item<double>() == Approx(1).margin(0.2));
}

TEST_CASE("networks of fields of any kind are invariant where their last fields are",
          "[nn][fields]") {
  torch::NoGradGuard no_grad;
  const auto check = [](const std::string& layers, const Tensor& x, const char* group,
                        int dimension) {
    auto sides = x.sizes().slice(1).vec();
    const auto network =
        network_of(fmt::format("input = [{}]\nlayer = [{}]", fmt::join(sides, ", "), layers));
    randomise(*network, 2);
    const auto y = network->forward(x);
    CHECK(y.std(0).min().item<double>() > 1e-3);  // it sees its input
    const auto grid = make_group(group, dimension);
    for (const auto& g : grid->elements())
      check_close(network->forward(acted(x, FieldType::trivial(grid, 1), g)), y, 1e-10);
  };
  check(
      "{ type = 'steerable_conv', group = 'O(2)', out = ['3 trivial', '2 (1,1)', '1 (1,2)'], "
      "padding = 1 }, { type = 'batchnorm' }, { type = 'norm_activation' }, { type = "
      "'steerable_conv', out = ['2 (1,1)', '1 trivial'] }, { type = 'tensor_product' }, { type = "
      "'batchnorm' }, { type = 'field_dropout' }, { type = 'steerable_conv', out = ['2 (1,1)', '1 "
      "(1,0)+(1,1)'] }, { type = 'norm_pool' }, { type = 'global_avgpool' }, { type = 'linear', "
      "out = 3 }",
      random_tensor({3, 1, 7, 7}, 7), "D4", 2);
  check(
      "{ type = 'steerable_conv3d', group = 'SO(3)', out = ['2 trivial', '2 (1)', '1 (2)'], "
      "padding = 1 }, { type = 'batchnorm' }, { type = 'norm_activation', activation = 'squash' }, "
      "{ type = 'tensor_product', keep = false }, { type = 'steerable_conv3d', out = ['2 (1)', '1 "
      "trivial'] }, { type = 'norm_pool' }, { type = 'global_avgpool' }, { type = 'linear', out = "
      "3 }",
      random_tensor({3, 1, 5, 5, 5}, 7), "O", 3);
}

TEST_CASE("layers on fields say what they do not take", "[nn][fields]") {
  const auto wrong = [](const std::string& layers, const std::string& message) {
    CAPTURE(layers);
    CHECK_THROWS_WITH(network_of("input = [1, 5, 5]\nlayer = [" + layers + "]"), Contains(message));
  };
  const std::string vectors =
      "{ type = 'steerable_conv', group = 'SO(2)', out = ['2 trivial', '1 (1)'] }, ";
  wrong(vectors + "{ type = 'norm_activation', activation = 'tanh' }", "relu");
  wrong(vectors + "{ type = 'norm_activation', bias = false }",
        "bias: relu leaves every length as it is without one");
  wrong(vectors + "{ type = 'norm_activation', activation = 'squash', bias = true }",
        "bias: squash has none");
  wrong(vectors + "{ type = 'layernorm' }", "a weight for every channel");
  wrong("{ type = 'norm_pool' }", "key \"group\" is missing");
  wrong(
      "{ type = 'steerable_conv', group = 'C32', out = '1 regular+regular+trivial' }, { type = "
      "'tensor_product' }",
      "at most 64");
  wrong(vectors + "{ type = 'field_dropout', p = 1 }", "0 <= p < 1");
}
