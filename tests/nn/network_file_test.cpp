// Network files: torch's defaults, shapes, and what a wrong file is told.
#include "tests/catch.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "io/config.h"
#include "tests/nn/layer_examples.h"

using namespace evariste;

namespace {

std::string message_of(const toml::table& table) {
  try {
    build_network(table, "net.toml", 10);
  } catch (const UsageError& e) {
    return e.what();
  }
  return "no error";
}

std::string message_of(const std::string& text) {
  try {
    network_of(text);
  } catch (const UsageError& e) {
    return e.what();
  }
  return "no error";
}

/// All of the parts occur in the message.
void check_message(const std::string& text, const std::vector<std::string>& parts) {
  const auto message = message_of(text);
  CAPTURE(text, message);
  for (const auto& part : parts) {
    CAPTURE(part);
    CHECK(message.find(part) != std::string::npos);
  }
}

std::string image_with(const std::string& layer) {
  return "input = [3, 8, 8]\nlayer = [\n  " + layer +
         ",\n  { type = 'flatten' },\n  { type = 'linear', out = 2 },\n]";
}

/// What both readers of network files are held to; tests/python/test_evariste.py is the other.
const toml::table& shared_cases() {
  static const auto table =
      parse_toml_file(std::filesystem::path(EVARISTE_SOURCE_DIR) / "tests/nn/network_files.toml");
  return table;
}

/// A file that goes away.
struct TemporaryFile {
  std::filesystem::path path =
      std::filesystem::temp_directory_path() / fmt::format("evariste-network-{}.toml", getpid());
  ~TemporaryFile() { std::filesystem::remove(path); }
};

std::vector<int64_t> first_weight(const std::string& text) {
  return network_of(text)->parameters()[0].sizes().vec();
}

}  // namespace

TEST_CASE("absent keys have torch's defaults", "[nn]") {
  torch::NoGradGuard no_grad;
  const auto network = network_of(image_with("{ type = 'conv', out = 4, kernel = 3 }"));
  const auto parameters = network->named_parameters();
  REQUIRE(parameters.contains("0.bias"));
  const auto x = torch::randn({2, 3, 8, 8});
  const auto y = torch::conv2d(x, parameters["0.weight"], parameters["0.bias"]).flatten(1);
  const auto expected = torch::linear(y, parameters["2.weight"], parameters["2.bias"]);
  CHECK(torch::allclose(network->forward(x), expected, 1e-4, 1e-5));

  const auto pooled = network_of(image_with("{ type = 'maxpool', kernel = [2, 4] }"));
  const auto z = torch::max_pool2d(x, {2, 4}, {2, 4}).flatten(1);
  const auto head = pooled->named_parameters();
  CHECK(torch::allclose(pooled->forward(x), torch::linear(z, head["2.weight"], head["2.bias"]),
                        1e-4, 1e-5));
  CHECK_FALSE(network->is_training());
}

TEST_CASE("parameters are named as in the state_dict of torch.nn.Sequential", "[nn]") {
  const auto network = network_of(
      "input = [2, 4, 4]\nlayer = [{ type = 'conv', out = 2, kernel = 1 }, { type = 'residual', "
      "layer = [{ type = 'relu' }, { type = 'scale' }] }, { type = 'sum', of = [{ type = 'fc', "
      "out = 2 }, [{ type = 'relu' }, { type = 'factored_fc', out = 2 }]] }, "
      "{ type = 'batchnorm' }, { type = 'flatten' }, { type = 'linear', out = 2, bias = false }]");
  std::vector<std::string> names;
  for (const auto& item : network->named_parameters()) names.push_back(item.key());
  CHECK(names == std::vector<std::string>{"0.weight", "0.bias", "1.1.weight", "2.0.weight",
                                          "2.0.bias", "2.1.1.U", "2.1.1.bias_U", "2.1.1.V",
                                          "2.1.1.bias_V", "3.weight", "3.bias", "5.weight"});
  std::vector<std::string> buffers, blocks;
  for (const auto& item : network->named_buffers()) buffers.push_back(item.key());
  CHECK(buffers ==
        std::vector<std::string>{"3.running_mean", "3.running_var", "3.num_batches_tracked"});
  for (const auto* block : named_blocks(*network)) blocks.push_back(block->name);
  CHECK(blocks == names);
}

TEST_CASE("shapes follow the layers, and numbers may be pairs", "[nn]") {
  CHECK(first_weight(image_with("{ type = 'conv', out = 4, kernel = [2, 3], groups = 1 }")) ==
        std::vector<int64_t>{4, 3, 2, 3});
  CHECK(first_weight("input = [6, 8]\nlayer = [{ type = 'conv1d', out = 4, kernel = 3, groups = 2 "
                     "}, { type = 'flatten' }]") == std::vector<int64_t>{4, 3, 3});
  CHECK(first_weight(image_with("{ type = 'fc', out = 5, stride = 4 }")) ==
        std::vector<int64_t>{20, 192});
  CHECK(first_weight(image_with("{ type = 'factored_fc', out = 5, stride = 4 }")) ==
        std::vector<int64_t>{5, 192});
  const auto network =
      network_of("input = [4]\nlayer = [{ type = 'linear', out = 'classes', bias = true }]", 7);
  CHECK(network->outputs() == 7);
  CHECK(network->input() == std::vector<int64_t>{4});
}

TEST_CASE("unknown names are refused with the place, the line and the nearest name", "[nn]") {
  check_message(image_with("{ type = 'convv', out = 4, kernel = 3 }"),
                {"net.toml: layer[0]", "line 3", "convv", "did you mean \"conv\""});
  check_message(image_with("{ type = 'conv', out = 4, kernel = 3, paddin = 1 }"),
                {"net.toml: layer[0]", "line 3", "paddin", "did you mean \"padding\""});
  check_message(image_with("{ type = 'conv', out = 4, kernel = 3, padding_mode = 'circula' }"),
                {"padding_mode", "circula", "did you mean \"circular\""});
  check_message(image_with("{ type = 'sum', of = [{ type = 'relu' }, [{ type = 'relu' }, "
                           "{ type = 'tanhh' }]] }"),
                {"layer[0].of[1][1]", "did you mean \"tanh\""});
  check_message(image_with("{ type = 'residual', layer = [{ type = 'relu', p = 1 }] }"),
                {"layer[0].layer[0]", "unknown relu key \"p\"; known: type"});
  check_message("input = [3]\nlayers = []\nlayer = [{ type = 'linear', out = 2 }]",
                {"net.toml", "layers", "did you mean \"layer\""});
  check_message("network = 1\ninput = [3]\nlayer = [{ type = 'linear', out = 2 }]",
                {"unknown top-level key \"network\"; known: input, layer"});
}

TEST_CASE("wrong types, missing keys and impossible numbers are refused", "[nn]") {
  check_message("layer = []", {"net.toml", "\"input\" is missing"});
  check_message("input = [3]", {"\"layer\" is missing"});
  check_message("input = [3]\nlayer = []", {"layer: expected at least one layer, found none"});
  check_message(
      "input = []\nlayer = [{ type = 'relu' }]",
      {"input: expected one to four sizes, [D], [C, L], [C, H, W] or [C, D, H, W], found 0"});
  check_message("input = [3, 0]\nlayer = [{ type = 'relu' }]",
                {"positive integers", "the integer 0"});
  check_message("input = [3]\nlayer = [3]", {"layer[0]", "a table", "an integer"});
  check_message("input = [3]\nlayer = [{ out = 3 }]", {"layer[0]", "\"type\" is missing"});
  check_message(image_with("{ type = 'conv', out = 4 }"), {"\"kernel\" is missing"});
  check_message(image_with("{ type = 'conv', out = '4', kernel = 3 }"),
                {"out: expected an integer or \"classes\", found \"4\", a string"});
  check_message(image_with("{ type = 'conv', out = 4.5, kernel = 3 }"),
                {"out: expected an integer or \"classes\", found a number"});
  check_message(image_with("{ type = 'conv', out = 4, kernel = 0 }"),
                {"kernel: expected at least 1, found 0"});
  check_message(image_with("{ type = 'conv', out = 4, kernel = [3] }"), {"kernel", "[h, w]"});
  check_message(image_with("{ type = 'conv', out = 4, kernel = [1, 3000000000] }"),
                {"kernel: 3000000000 is too large, expected at most 2147483648"});
  check_message(image_with("{ type = 'conv', out = 4, kernel = 3, bias = 1 }"),
                {"bias: expected true or false, found an integer"});
  check_message(image_with("{ type = 'sum', of = [{ type = 'relu' }], scale = 0.0 }"),
                {"layer[0] (line 3): scale: expected a finite number other than 0, found 0"});
  check_message(image_with("{ type = 'sum', of = [{ type = 'relu' }], scale = nan }"),
                {"scale", "found nan"});
  check_message(image_with("{ type = 'batchnorm', eps = -0.1 }"),
                {"layer[0] (line 3): eps: expected a finite number of at least 0, found -0.1"});
  check_message(image_with("{ type = 'dropout', p = 1.0 }"), {"p", "0 <= p < 1"});
  check_message("input = [4]\nlayer = [{ type = 'linear', out = 'classes' }]",
                {"layer[0] (line 2): out: the width \"classes\" needs the number of labels"});
}

TEST_CASE("both readers know the same keys and values", "[nn]") {
  torch::NoGradGuard no_grad;
  const auto accept = [](const toml::node& entry) {
    const auto& table = *entry.as_table()->at("network").as_table();
    CAPTURE(to_text(table));
    CHECK(message_of(table) == "no error");
    const auto network = build_network(table, "net.toml", 10);
    auto shape = network->input();
    shape.insert(shape.begin(), 2);
    CHECK(network->forward(torch::zeros(shape)).dim() == 2);
  };
  std::vector<std::string> types;
  for (const auto& [type, entry] : *shared_cases()["keys"].as_table()) {
    CAPTURE(type.str());
    types.emplace_back(type.str());
    accept(entry);
    // The layer has every key: the message about one more names them all.
    auto table = *entry.as_table()->at("network").as_table();
    auto& layer = *table["layer"][0].as_table();
    std::vector<std::string> keys;
    for (const auto& [key, value] : layer) keys.emplace_back(key.str());
    layer.insert("nonsense", 1);
    CHECK_THAT(message_of(table), Contains(fmt::format("unknown {} key \"nonsense\"; known: {}",
                                                       type.str(), fmt::join(keys, ", "))));
  }
  CHECK(types == layer_types());
  for (const auto& entry : *shared_cases()["accepted"].as_array()) accept(entry);
  for (const auto& entry : *shared_cases()["refused"].as_array()) {
    const auto& table = *entry.as_table();
    CAPTURE(to_text(table));
    const auto message = message_of(*table["network"].as_table());
    CHECK_THAT(message, Contains(table["says"].as_string()->get()));
    CHECK(message.starts_with("net.toml"));
  }
}

TEST_CASE("activations take the parameters of torch's", "[nn]") {
  torch::NoGradGuard no_grad;
  const auto x = torch::linspace(-4, 4, 33, torch::kFloat64).unsqueeze(0);
  const auto activation = [&](const std::string& layer) {
    return network_of("input = [33]\nlayer = [" + layer + "]")->forward(x);
  };
  CHECK(torch::equal(activation("{ type = 'elu', alpha = 0.5 }"), at::elu(x, 0.5)));
  CHECK(torch::equal(activation("{ type = 'gelu', approximate = 'tanh' }"), at::gelu(x, "tanh")));
  CHECK(torch::equal(activation("{ type = 'softplus', beta = 2, threshold = 3 }"),
                     at::softplus(x, 2, 3)));
}

TEST_CASE("shapes that do not fit are refused with the shape", "[nn]") {
  check_message("input = [3]\nlayer = [{ type = 'conv', out = 4, kernel = 3 }]",
                {"[C, H, W]", "[3]"});
  check_message(image_with("{ type = 'linear', out = 4 }"), {"[3, 8, 8]", "flatten"});
  check_message(image_with("{ type = 'conv', out = 4, kernel = 9 }"), {"9x9", "[3, 8, 8]"});
  check_message(image_with("{ type = 'conv', out = 4, kernel = 3, groups = 2 }"), {"groups = 2"});
  check_message(image_with("{ type = 'conv', out = 4, kernel = 3, padding = 9, padding_mode = "
                           "'circular' }"),
                {"more than once"});
  check_message(image_with("{ type = 'polyphase', stride = 3 }"), {"stride 3", "[3, 8, 8]"});
  check_message(image_with("{ type = 'fc', out = 2, stride = 3 }"), {"stride 3"});
  check_message(image_with("{ type = 'maxpool', kernel = 2, padding = 2 }"), {"half the kernel"});
  check_message(image_with("{ type = 'residual', layer = [{ type = 'maxpool', kernel = 2 }] }"),
                {"[3, 8, 8]", "[3, 4, 4]"});
  check_message(image_with("{ type = 'sum', of = [{ type = 'fc', out = 2 }, { type = 'relu' }] }"),
                {"pathway 1", "[3, 8, 8]", "[2, 8, 8]"});
  check_message("input = [3, 8, 8]\nlayer = [{ type = 'relu' }]", {"[3, 8, 8]", "flatten"});
  check_message(image_with("{ type = 'groupnorm', groups = 2 }"),
                {"net.toml: layer[0] (line 3): groups", "3 channels", "2 groups"});
  check_message(image_with("{ type = 'conv', out = 4, kernel = 10, stride = 3 }"), {"10x10"});
  check_message(image_with("{ type = 'fc', out = 2000000000 }"),
                {"layer[0] (line 3): weight [128000000000, 192]", "expected at most 1073741824"});
  const auto network = network_of("input = [3]\nlayer = [{ type = 'linear', out = 2 }]");
  CHECK_THROWS_AS(network->forward(torch::zeros({5, 4})), UsageError);
}

TEST_CASE("a network may be a file of its own or the table of an experiment's", "[nn]") {
  const TemporaryFile file;
  const std::string body = "input = [3]\nlayer = [{ type = 'linear', out = 2 }]\n";
  std::ofstream(file.path) << body;
  CHECK(load_network(file.path)->outputs() == 2);
  std::ofstream(file.path) << "seed = 1\n[network]\n" << body;
  CHECK(load_network(file.path)->outputs() == 2);
  std::ofstream(file.path) << "seed = 1\n[network]\ninput = [3]\n"
                           << "layer = [{ type = 'linear', out = 'classes' }]\n";
  CHECK(load_network(file.path, 7)->outputs() == 7);
  CHECK_THROWS_WITH(load_network(file.path),
                    Contains(file.path.string()) && Contains("needs the number of labels"));
}

TEST_CASE("a file that is no network file is refused by what is wrong with it", "[nn]") {
  const TemporaryFile file;
  CHECK_THROWS_WITH(load_network(file.path), Contains(file.path.string()) && Contains("no such"));
  std::ofstream(file.path) << "seed = 1\ninput = [3\n";
  CHECK_THROWS_WITH(load_network(file.path), Contains(fmt::format("{}:", file.path.string())));
  CHECK_THROWS_AS(load_network(file.path), UsageError);
  CHECK_THROWS_WITH(load_network("."), Contains("a folder, expected a file"));
  // A link to itself is there and cannot be opened, not even by root.
  std::filesystem::remove(file.path);
  std::filesystem::create_symlink(file.path, file.path);
  CHECK_THROWS_AS(load_network(file.path), IoError);
}
