// Weights: fresh ones from named streams, and safetensors files.
#include "tests/catch.h"

#include <unistd.h>

#include <filesystem>

#include "core/error.h"
#include "io/safetensors.h"
#include "tests/nn/layer_examples.h"

using namespace evariste;

namespace {

const char* kText =
    "input = [3, 4, 4]\nlayer = [{ type = 'conv', out = 4, kernel = 3, padding = 1 }, "
    "{ type = 'batchnorm' }, { type = 'sum', of = [{ type = 'fc', out = 40 }, "
    "[{ type = 'groupnorm', groups = 2 }, { type = 'conv', out = 40, kernel = 1 }, "
    "{ type = 'scale' }]] }, { type = 'bias' }, { type = 'global_avgpool' }, "
    "{ type = 'linear', out = 1 }, { type = 'linear', out = 1 }]";

/// A path that goes away.
struct TemporaryPath {
  std::filesystem::path path = std::filesystem::temp_directory_path() /
                               fmt::format("evariste-weights-{}.safetensors", getpid());
  ~TemporaryPath() { std::filesystem::remove(path); }
};

std::string message_of(Network& network, const std::filesystem::path& path) {
  try {
    load_weights(network, path);
  } catch (const UsageError& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("weights come back from a file bit for bit, in both precisions", "[nn]") {
  const TemporaryPath file;
  for (const auto type : {torch::kFloat32, torch::kFloat64}) {
    const auto written = network_of(kText), read = network_of(kText);
    randomise(*written, 1);
    written->to(type);
    read->to(type);
    save_weights(*written, file.path);
    load_weights(*read, file.path);
    for (const auto& item : written->named_parameters())
      CHECK(torch::equal(item.value(), read->named_parameters()[item.key()]));
    for (const auto& item : written->named_buffers())
      CHECK(torch::equal(item.value(), read->named_buffers()[item.key()]));
  }
}

TEST_CASE("tensors of every precision are read into a network's own", "[nn]") {
  const TemporaryPath file;
  const auto network = network_of("input = [2]\nlayer = [{ type = 'linear', out = 2 }]");
  for (const auto type : {torch::kFloat64, torch::kFloat16, torch::kBFloat16}) {
    const auto w = torch::tensor({{0.5, -1.25}, {3.0, 0.0}}).to(type);
    write_safetensors(file.path,
                      {to_safe_tensor("0.weight", w), to_safe_tensor("0.bias", torch::zeros({2}))});
    load_weights(*network, file.path);
    CHECK(torch::equal(network->parameters()[0], w.to(torch::kFloat32)));
  }
}

TEST_CASE("files that do not fit the network are refused by tensor", "[nn]") {
  const TemporaryPath file;
  const auto network = network_of("input = [2]\nlayer = [{ type = 'linear', out = 2 }]");
  const auto w = torch::zeros({2, 2}), b = torch::zeros({2});
  const auto check = [&](const std::vector<SafeTensor>& tensors,
                         const std::vector<std::string>& parts) {
    write_safetensors(file.path, tensors);
    const auto message = message_of(*network, file.path);
    CAPTURE(message);
    CHECK(message.find(file.path.string()) == 0);
    for (const auto& part : parts) CHECK(message.find(part) != std::string::npos);
  };
  check({to_safe_tensor("0.weight", w)}, {"\"0.bias\"", "[2]", "missing"});
  check({to_safe_tensor("0.weight", w), to_safe_tensor("0.bais", b)},
        {"0.bais", "did you mean \"0.bias\""});
  check({to_safe_tensor("0.weight", w), to_safe_tensor("0.bias", torch::zeros({3}))},
        {"\"0.bias\"", "expected [2], found [3]"});
  check({to_safe_tensor("0.weight", w / 0), to_safe_tensor("0.bias", b)}, {"0.weight", "NaN"});
  CHECK_THROWS_AS(to_safe_tensor("w", torch::zeros({2}, torch::kComplexFloat)), UsageError);
}

TEST_CASE("pathways of an inner sum start as pathways beside it do", "[nn]") {
  const std::string fc = "{ type = 'fc', out = 2 }",
                    conv = "{ type = 'conv', out = 2, kernel = 3, padding = 1 }";
  const auto network = [&](const std::string& paths) {
    return network_of(
        fmt::format("input = [1, 4, 4]\nlayer = [{{ type = 'sum', of = [{}] }}, "
                    "{{ type = 'flatten' }}, {{ type = 'linear', out = 3 }}]",
                    paths));
  };
  const auto flat = network(fc + "," + conv + "," + conv);
  const auto nested = network(fc + ", [{ type = 'sum', of = [" + conv + "," + conv + "] }]");
  for (const double lean : {1.0, 3.0})
    CHECK(matched_precisions(*nested, lean) == matched_precisions(*flat, lean));
}

TEST_CASE("initialisation depends on the stream and the parameter's name only", "[nn]") {
  torch::manual_seed(1);
  const auto one = network_of(kText);
  torch::manual_seed(2);
  const auto other = network_of(kText), different = network_of(kText);
  initialise(*one, Stream(7));
  initialise(*other, Stream(7));
  initialise(*different, Stream(8));
  int64_t changed = 0;
  for (const auto& item : one->named_parameters()) {
    CAPTURE(item.key());
    CHECK(torch::equal(item.value(), other->named_parameters()[item.key()]));
    changed += torch::equal(item.value(), different->named_parameters()[item.key()]) ? 0 : 1;
  }
  CHECK(changed == 8);  // weights and biases of two linear layers and a convolution, two pathways
}

TEST_CASE("the mean of the pathways starts with He's variance, the first one leaning", "[nn]") {
  for (const double lean : {1.0, 30.0}) {
    const auto network = network_of(kText);
    initialise(*network, Stream(7), lean);
    const auto p = network->named_parameters();
    // v_k = K^2 r_k / sum r; the mean of K = 2 pathways weighs each with 1/4.
    const double first = 4 * lean / (lean + 1), second = 4 / (lean + 1);
    CHECK((first + second) / 4 == Approx(1));
    std::map<std::string, double> variances = {{"2.0.weight", first * 2 / 64},
                                               {"2.1.1.weight", second * 2 / 4}};
    for (const auto& [name, variance] : variances) {
      CAPTURE(lean, name);
      const auto n = static_cast<double>(p[name].numel());
      CHECK(p[name].var(false).item<double>() == Approx(variance).epsilon(6 * std::sqrt(2 / n)));
    }
    for (const auto* name : {"2.0.bias", "2.1.1.bias", "2.1.0.bias", "1.bias", "3.bias"})
      CHECK(p[name].count_nonzero().item<int64_t>() == 0);
    for (const auto* name : {"1.weight", "2.1.0.weight", "2.1.2.weight"})
      CHECK(torch::equal(p[name], torch::ones_like(p[name])));
    for (const auto* name : {"0.weight", "0.bias"}) {  // as in torch
      const double bound = 1 / std::sqrt(27.0), largest = p[name].abs().max().item<double>();
      CHECK(largest <= bound);
      CHECK(largest > 0.3 * bound);
    }
    // The matched prior is the inverse of the variance.
    const auto blocks = named_blocks(*network);
    const auto matched = matched_precisions(*network, lean);
    REQUIRE(matched.size() == blocks.size());
    for (size_t m = 0; m < blocks.size(); ++m) {
      CAPTURE(blocks[m]->name);
      if (variances.count(blocks[m]->name))
        CHECK(matched[m] * variances[blocks[m]->name] == Approx(1));
      if (blocks[m]->name == "0.weight") CHECK(matched[m] == Approx(13.5));
      if (blocks[m]->is_bias) CHECK(matched[m] == 1.0);
    }
  }
}
