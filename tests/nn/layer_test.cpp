// Properties of every layer in layer_examples(), each against autograd or finite differences.
#include "tests/catch.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/nn/modules/batchnorm.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "laplace/hyper_gradient.h"
#include "tests/nn/layer_examples.h"

using namespace evariste;

namespace {

constexpr int64_t kSamples = 4, kFolds = 3;

double largest(const Tensor& error) {
  return error.numel() == 0 ? 0.0 : error.detach().abs().max().item<double>();
}

}  // namespace

TEST_CASE("every layer type has an example", "[nn]") {
  std::set<std::string> covered;
  for (const auto& example : layer_examples()) {
    covered.insert(example.type);
    CHECK(example.layers.find("'" + example.type + "'") != std::string::npos);
  }
  const auto types = layer_types();
  CHECK(covered == std::set<std::string>(types.begin(), types.end()));
}

TEST_CASE("folded backward is autograd's, for the input and for every block", "[nn]") {
  for (const auto& example : layer_examples()) {
    CAPTURE(example.type, example.title);
    const auto network = example.build();
    const auto x = example.inputs(kSamples).requires_grad_();
    Tape tape;
    const auto y = network->forward(x, &tape);
    const auto g = random_tensor({kFolds, kSamples, y.size(1)}, 3);

    std::map<std::string, std::vector<Tensor>> weight_gradients;
    named_blocks(*network);
    Tensor dx;
    {
      torch::NoGradGuard no_grad;
      Tape plain;
      network->forward(x, &plain);
      dx = network->backward(
          g, plain,
          [&](const Block& block, const Tensor& input, const Tensor& cotangent) {
            REQUIRE(cotangent.size(0) == kFolds);
            REQUIRE(input.size(0) == kSamples);
            for (int64_t r = 0; r < kFolds; ++r)
              weight_gradients[block.name].push_back(
                  block.from_matrix(block.gradient(input, cotangent[r])));
          },
          true);
      REQUIRE(dx.size(0) == kFolds);
      REQUIRE(dx[0].sizes() == x.sizes());
      // Without the input's cotangent the blocks still get theirs.
      size_t visited = 0;
      network->backward(
          g, plain, [&](const Block&, const Tensor&, const Tensor&) { ++visited; }, false);
      CHECK(visited == weight_gradients.size());
      // With one block of interest it is reported as before, whatever is left out for the others.
      for (const auto* wanted : named_blocks(*network)) {
        CAPTURE(wanted->name);
        std::vector<Tensor> found;
        Sink sink = [&](const Block& block, const Tensor& input, const Tensor& cotangent) {
          if (&block != wanted) return;
          for (int64_t r = 0; r < kFolds; ++r)
            found.push_back(block.from_matrix(block.gradient(input, cotangent[r])));
        };
        sink.wants = [&](const Block& block) { return &block == wanted; };
        network->backward(g, plain, sink, false);
        REQUIRE(found.size() == kFolds);
        for (size_t r = 0; r < kFolds; ++r)
          CHECK(torch::equal(found[r], weight_gradients[wanted->name][r]));
      }
    }
    NamedTensors parameters;  // without those that no block has, as a degree
    const auto hyper = named_hyperparameters(*network);
    for (const auto& item : network->named_parameters())
      if (std::none_of(hyper.begin(), hyper.end(),
                       [&](const auto& leaf) { return leaf.first == item.key(); }))
        parameters.emplace_back(item.key(), item.value());
    CHECK(weight_gradients.size() == parameters.size());
    for (int64_t r = 0; r < kFolds; ++r) {
      std::vector<Tensor> leaves = {x};
      for (const auto& item : parameters) leaves.push_back(item.second);
      const auto expected = torch::autograd::grad({y}, leaves, {g[r]}, true);
      CHECK(largest(dx[r] - expected[0]) < 1e-11);
      for (size_t i = 0; i < parameters.size(); ++i) {
        CAPTURE(parameters[i].first);
        REQUIRE(weight_gradients.count(parameters[i].first) == 1);
        const auto& found = weight_gradients[parameters[i].first][static_cast<size_t>(r)];
        REQUIRE(found.sizes() == expected[i + 1].sizes());
        CHECK(largest(found - expected[i + 1]) < 1e-11);
      }
    }
  }
}

TEST_CASE("backward stops below the lowest block of interest", "[nn]") {
  torch::NoGradGuard no_grad;
  const auto network = network_of(R"(
    input = [2, 6, 6]
    layer = [
      { type = "conv", out = 3, kernel = 3 }, { type = "relu" },
      { type = "residual", layer = [ { type = "conv", out = 3, kernel = 3, padding = 1 } ] },
      { type = "repeat", times = 2, layer = [ { type = "conv", out = 3, kernel = 3, padding = 1 },
                                              { type = "conv", out = 3, kernel = 1 } ] },
      { type = "flatten" }, { type = "linear", out = 4 }, { type = "linear", out = 2 } ])");
  const auto blocks = named_blocks(*network);
  Tape tape;
  const auto y = network->forward(torch::ones({3, 2, 6, 6}), &tape);
  for (size_t lowest = 0; lowest < blocks.size(); ++lowest) {
    std::vector<std::string> reported;
    Sink sink = [&](const Block& block, const Tensor&, const Tensor&) {
      reported.push_back(block.name);
    };
    sink.wants = [&](const Block& block) { return &block == blocks[lowest]; };
    network->backward(torch::ones_like(y).unsqueeze(0), tape, sink, false);
    // Layer by layer: of each all blocks are.
    CAPTURE(blocks[lowest]->name);
    CHECK(reported.size() == blocks.size() - lowest / 2 * 2);
  }
}

TEST_CASE("the forward derivative is the central difference", "[nn]") {
  constexpr double kStep = 1e-5;
  for (const auto& example : layer_examples()) {
    CAPTURE(example.type, example.title);
    torch::NoGradGuard no_grad;
    const auto network = example.build();
    const auto x = example.inputs(kSamples);
    const auto dx = random_tensor(x.sizes(), 4);
    std::map<const Block*, Tensor> direction;
    uint64_t seed = 5;
    for (const auto* block : named_blocks(*network))
      direction[block] = random_tensor(block->value().sizes(), seed++);
    const auto outputs = [&](double input_step, double weight_step) {
      for (const auto& [block, d] : direction)
        Tensor(block->weight()).add_(block->from_matrix(d), weight_step);
      const auto y = network->forward(x + input_step * dx);
      for (const auto& [block, d] : direction)
        Tensor(block->weight()).sub_(block->from_matrix(d), weight_step);
      return y;
    };
    Tape tape;
    network->forward(x, &tape);
    for (const bool input : {true, false}) {
      for (const bool weights : {true, false}) {
        CAPTURE(input, weights);
        // Two folds, the second twice the first.
        const auto twice = [](const Tensor& t) { return torch::stack({t, 2 * t}); };
        const auto dy =
            network->jvp(input ? twice(dx) : Tensor(), tape, along([&](const Block& block) {
                           return weights ? twice(direction.at(&block)) : Tensor();
                         }));
        CHECK(dy.defined() == (input || weights));
        if (!dy.defined()) continue;
        const double hx = input ? kStep : 0, hw = weights ? kStep : 0;
        const auto difference = (outputs(hx, hw) - outputs(-hx, -hw)) / (2 * kStep);
        CHECK(largest(dy[0] - difference) < 1e-7 * std::max(1.0, largest(dy)));
        CHECK(largest(dy[1] - 2 * dy[0]) < 1e-12 * std::max(1.0, largest(dy)));
      }
    }
  }
}

TEST_CASE("every network is a function of one example", "[nn]") {
  torch::NoGradGuard no_grad;
  for (const auto& example : layer_examples()) {
    CAPTURE(example.type, example.title);
    const auto network = example.build();
    const auto x = example.inputs(kSamples);
    const auto together = network->forward(x);
    for (int64_t i = 0; i < kSamples; ++i)
      CHECK(largest(network->forward(x.narrow(0, i, 1)) - together.narrow(0, i, 1)) < 1e-12);
  }
}

TEST_CASE("a tape of batchnorm in training mode is refused", "[nn]") {
  const auto network =
      network_of("input = [3]\nlayer = [{ type = 'batchnorm' }, { type = 'linear', out = 2 }]");
  network->train();
  Tape tape;
  CHECK_THROWS_AS(network->forward(torch::randn({4, 3}), &tape), UsageError);
}

TEST_CASE("batchnorm keeps running statistics as torch does", "[nn]") {
  torch::NoGradGuard no_grad;
  const auto network = network_of(
      "input = [3, 2, 2]\nlayer = [{ type = 'batchnorm', momentum = 0.3 }, { type = 'flatten' }]");
  randomise(*network, 1);
  auto reference = torch::nn::BatchNorm2d(torch::nn::BatchNorm2dOptions(3).momentum(0.3));
  reference->to(torch::kFloat64);
  for (const auto& item : reference->named_parameters())
    item.value().copy_(network->named_parameters()["0." + item.key()]);
  for (const auto& item : reference->named_buffers())
    item.value().copy_(network->named_buffers()["0." + item.key()]);
  network->train();
  for (uint64_t i = 0; i < 3; ++i) {
    const auto x = random_tensor({5, 3, 2, 2}, 10 + i);
    CHECK(largest(network->forward(x) - reference->forward(x).flatten(1)) < 1e-12);
  }
  network->eval();
  reference->eval();
  const auto x = random_tensor({5, 3, 2, 2}, 20);
  CHECK(largest(network->forward(x) - reference->forward(x).flatten(1)) < 1e-12);
}

TEST_CASE("dropout in training mode keeps the mean, and backward uses the same mask", "[nn]") {
  torch::manual_seed(1);
  const auto network =
      network_of("input = [20000]\nlayer = [{ type = 'dropout', p = 0.25 }, { type = 'scale' }]");
  network->to(torch::kFloat64);
  network->train();
  torch::NoGradGuard no_grad;
  const auto x = torch::ones({1, 20000}, torch::kFloat64);
  Tape tape;
  const auto y = network->forward(x, &tape);
  CHECK(y.mean().item<double>() == Approx(1).margin(5 * std::sqrt(0.25 / 0.75 / 20000)));
  const auto ignore = [](const Block&, const Tensor&, const Tensor&) {};
  CHECK(largest(network->backward(x.unsqueeze(0), tape, ignore, true)[0] - y) == 0);
}
