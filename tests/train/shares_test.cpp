// Shares of pathways against variances that are known.
#include "tests/catch.h"

#include "nn/averaged.h"
#include "tests/nn/layer_examples.h"
#include "train/shares.h"

using namespace evariste;

namespace {

/// 3 x and x + 100 of one channel, then a residual block that holds another sum.
std::shared_ptr<Network> known_network() {
  const auto network = network_of(
      "input = [1, 2, 2]\nlayer = [{ type = 'sum', of = ["
      "{ type = 'conv', out = 1, kernel = 1 }, { type = 'conv', out = 1, kernel = 1 }] },"
      "{ type = 'residual', layer = [{ type = 'sum', of = ["
      "{ type = 'conv', out = 1, kernel = 1 }, { type = 'conv', out = 1, kernel = 1 },"
      "[{ type = 'conv', out = 1, kernel = 1 }, { type = 'conv', out = 1, kernel = 1 }]] }] },"
      "{ type = 'flatten' }, { type = 'linear', out = 3 }]");
  network->to(torch::kFloat64);
  torch::NoGradGuard no_grad;
  for (auto* block : named_blocks(*network)) block->weight().zero_();
  auto parameters = network->named_parameters();
  parameters["0.0.weight"].fill_(3);
  parameters["0.1.weight"].fill_(1);
  parameters["0.1.bias"].fill_(100);
  return network;
}

}  // namespace

TEST_CASE("sums are found in order, wherever they stand", "[shares]") {
  const auto network = known_network();
  const auto layers = pathway_layers(*network);
  REQUIRE(layers.size() == 2);
  CHECK(layers[0].name == "0");
  REQUIRE(layers[0].paths.size() == 2);
  CHECK(layers[0].paths[0].name == "0.0");
  CHECK(layers[0].paths[1].name == "0.1");
  CHECK(layers[1].name == "1.0");
  REQUIRE(layers[1].paths.size() == 3);
  REQUIRE(layers[1].paths[2].weights.size() == 2);
  CHECK(layers[0].paths[1].weights.at(0)->name == "0.1.weight");
}

TEST_CASE("a sum that a pathway begins with shares what the pathway has", "[shares]") {
  // 6 x beside a subsampled 3 x + 1 x of the same inputs.
  const auto network = network_of(
      "input = [1, 4, 4]\nlayer = [{ type = 'sum', of = ["
      "{ type = 'fc', out = 1, stride = 2, bias = false },"
      "[{ type = 'sum', of = [{ type = 'conv', out = 1, kernel = 1, bias = false },"
      "{ type = 'conv', out = 1, kernel = 1, bias = false }] }, { type = 'polyphase' }] ] },"
      "{ type = 'flatten' }, { type = 'linear', out = 3 }]");
  network->to(torch::kFloat64);
  torch::NoGradGuard no_grad;
  auto parameters = network->named_parameters();
  const auto set = [&](const char* name, double value) {
    REQUIRE(parameters.find(name));
    parameters[name].fill_(value);
  };
  set("0.1.0.0.weight", 3);
  set("0.1.0.1.weight", 1);
  const auto layers = pathway_layers(*network);
  REQUIRE(layers.size() == 1);
  REQUIRE(layers[0].paths.size() == 3);
  CHECK(layers[0].paths[0].name == "0.0");
  CHECK(layers[0].paths[1].name == "0.1.0.0");
  CHECK(layers[0].paths[2].name == "0.1.0.1");
  CHECK(layers[0].paths[2].weights.at(0)->name == "0.1.0.1.weight");

  const auto x = random_tensor({50, 1, 4, 4}, 1);
  const auto& sum = *layers[0].paths[0].choices[0].first;
  REQUIRE(sum.inner_sum(1));
  CHECK(torch::allclose(sum.inner_sum(1)->forward(x, nullptr), 4 * x));  // a plain sum
  const auto fc_output = sum.paths()[0]->forward(x, nullptr),
             conv_output = sum.paths()[1]->forward(x);
  CHECK(torch::allclose(sum.forward(x, nullptr), (fc_output + conv_output) / 3));
  const auto variance = [](const Tensor& out) { return out.var(0, false).sum().item<double>(); };
  const double fc = variance(fc_output), both = variance(conv_output);
  const auto shares = variance_shares(*network, layers, {x, {}}, 20)[0];
  CHECK(shares[0] == Approx(fc / (fc + both)));
  CHECK(shares[1] == Approx(0.9 * both / (fc + both)));
  CHECK(shares[2] == Approx(0.1 * both / (fc + both)));
}

TEST_CASE("the variance share of a pathway is that of its own output", "[shares]") {
  const auto network = known_network();
  const auto layers = pathway_layers(*network);
  const auto x = random_tensor({40, 1, 2, 2}, 1);
  for (const int64_t batch : {40, 7, 1}) {
    const auto shares = variance_shares(*network, layers, {x, {}}, batch);
    REQUIRE(shares.size() == 2);
    // 9 Var x and 1 Var x: a constant adds no variance.
    CHECK(shares[0][0] == Approx(0.9).epsilon(1e-9));
    CHECK(shares[0][1] == Approx(0.1).epsilon(1e-9));
    // Silent pathways share alike.
    for (const double share : shares[1]) CHECK(share == Approx(1.0 / 3));
  }
  torch::NoGradGuard no_grad;
  network->named_parameters()["0.1.weight"].zero_();
  const auto shares = variance_shares(*network, layers, {x, {}}, 40);
  CHECK(shares[0][0] == Approx(1.0));
  CHECK(shares[0][1] == Approx(0.0).margin(1e-12));
}

TEST_CASE("the effective share compares the mean gamma/P of the pathways' weights", "[shares]") {
  const auto network = known_network();
  const auto layers = pathway_layers(*network);
  Evidence evidence;
  const std::map<std::string, std::pair<int64_t, double>> effective = {
      {"0.0.weight", {10, 6.0}},   {"0.1.weight", {100, 20.0}}, {"0.0.bias", {1, 1.0}},
      {"1.0.0.weight", {4, 1.0}},  {"1.0.1.weight", {4, 0.0}},  {"1.0.2.0.weight", {2, 1.0}},
      {"1.0.2.1.weight", {8, 4.0}}};
  for (const auto& [name, numbers] : effective) {
    BlockEvidence block;
    block.name = name;
    block.parameters = numbers.first;
    block.effective_dimension = numbers.second;
    evidence.blocks.push_back(block);
  }
  const auto shares = effective_shares(evidence, layers);
  CHECK(shares[0][0] == Approx(0.6 / 0.8));
  CHECK(shares[0][1] == Approx(0.2 / 0.8));
  CHECK(shares[1][0] == Approx(0.25 / 0.75));
  CHECK(shares[1][1] == Approx(0.0).margin(1e-15));
  CHECK(shares[1][2] == Approx(0.5 / 0.75));  // mean of 1/2 and 4/8
}

TEST_CASE("copies of a sample are outputs like others to the variance share", "[shares]") {
  const auto network = known_network();
  const auto averaged = std::make_shared<AveragedNetwork>(*network);
  const auto expected_layers = pathway_layers(*network);
  const auto layers = pathway_layers(*averaged);
  const auto x = random_tensor({5, 3, 1, 2, 2}, 7);
  const Samples copies{x, torch::zeros({5}, torch::kInt64)};
  const Samples flat{x.flatten(0, 1), torch::zeros({15}, torch::kInt64)};
  const auto found = variance_shares(*averaged, layers, copies, 2);
  const auto expected = variance_shares(*network, expected_layers, flat, 4);
  REQUIRE(found.size() == expected.size());
  for (size_t l = 0; l < found.size(); ++l)
    for (size_t k = 0; k < found[l].size(); ++k)
      CHECK(found[l][k] == Approx(expected[l][k]).epsilon(1e-10));
}
