#include "io/config.h"

#include <limits>

#include "core/error.h"
#include "tests/catch.h"
#include "tests/io/temporary_folder.h"

using namespace evariste;

namespace {

struct Train {
  double lr = 0.1;
  int epochs = 100;
  std::string curvature = "kron";
  std::vector<double> decay = {0.5};

  template <class Visitor>
  void visit(Visitor&& field) {
    field("lr", lr, "step size of the weight optimiser");
    field("epochs", epochs, "passes over the training set");
    field("curvature", curvature, "structure", {"kron", "diag", "full"});
    field("decay", decay, "factors");
  }
};

struct Stage {
  std::string name;

  template <class Visitor>
  void visit(Visitor&& field) {
    field("name", name, "of the stage");
  }
};

struct Config {
  int64_t seed = 0;
  bool augment = false;
  Train train;
  std::vector<std::string> layers;
  std::vector<bool> flags;
  std::vector<Stage> stage;
  toml::table network;
  toml::array shape;

  template <class Visitor>
  void visit(Visitor&& field) {
    field("seed", seed, "of every stream");
    field("augment", augment, "whether images are shifted");
    field("train", train, "training");
    field("layers", layers, "in order");
    field("flags", flags, "of the layers");
    field("stage", stage, "in order");
    field("network", network, "as in a network file");
    field("shape", shape, "of an image");
  }
};

Config parsed(std::string_view text) { return from_toml<Config>(parse_toml(text, "a.toml")); }

std::string error_of(std::string_view text) {
  try {
    parsed(text);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "accepted";
}

constexpr std::string_view kLayered = R"(seed = 1
[train]
lr = 0.1
epochs = 10
[quick.train]
epochs = 2
[paper]
seed = 5
)";

}  // namespace

TEST_CASE("a struct is read from TOML and keeps its defaults elsewhere", "[io][config]") {
  const auto config = parsed(R"(
seed = 7
augment = true
layers = ["fc", "conv"]
flags = [true, false]
shape = [1, 28, 28]
stage = [{ name = "a" }, { name = "b" }]
[train]
lr = 1            # an integer stands for a number
curvature = "diag"
[network]
anything = { goes = 1 })");
  CHECK(config.seed == 7);
  CHECK(config.augment);
  CHECK(config.train.lr == 1.0);
  CHECK(config.train.epochs == 100);
  CHECK(config.train.curvature == "diag");
  CHECK(config.layers == std::vector<std::string>{"fc", "conv"});
  CHECK(config.flags == std::vector<bool>{true, false});
  CHECK(config.stage.at(1).name == "b");
  CHECK(config.shape.size() == 3);
  CHECK(config.network.at_path("anything.goes").value_or(0) == 1);
}

TEST_CASE("an unknown key is refused with its line and the nearest name", "[io][config]") {
  CHECK(error_of("seed = 1\n[train]\nlrr = 1") ==
        "a.toml:3: unknown key \"train.lrr\"; did you mean \"train.lr\"? "
        "known: train.lr, train.epochs, train.curvature, train.decay");
  CHECK_THAT(error_of("sede = 1"),
             Contains("a.toml:1: unknown key \"sede\"; did you mean \"seed\""));
  CHECK_THAT(error_of("stage = [{ name = 'a' },\n { nam = 'b' }]"),
             Contains("a.toml:2: unknown key \"stage.nam\""));
}

TEST_CASE("a wrong type says what was found and what was expected", "[io][config]") {
  CHECK(error_of("[train]\nlr = \"fast\"") ==
        "a.toml:2: train.lr: found the string \"fast\", expected a number");
  CHECK(error_of("seed = 1.5") == "a.toml:1: seed: found the number 1.5, expected an integer");
  CHECK_THAT(error_of("augment = 1"), Contains("found the integer 1, expected true or false"));
  CHECK_THAT(error_of("train = 3"), Contains("train: found the integer 3, expected a table"));
  CHECK_THAT(error_of("layers = 'fc'"), Contains("expected an array"));
  CHECK_THAT(error_of("layers = ['fc', 3]"), Contains("layers: found the integer 3"));
  CHECK_THAT(error_of("[train]\nepochs = 3000000000"), Contains("expected an integer below"));
  CHECK_THAT(error_of("[train]\nlr = nan"), Contains("not NaN"));
  CHECK_THAT(error_of("seed = 2025-01-31"), Contains("a date or time"));
}

TEST_CASE("a value that is no choice is refused with the nearest", "[io][config]") {
  CHECK(error_of("[train]\ncurvature = 'krom'") ==
        "a.toml:2: unknown value of train.curvature: \"krom\"; did you mean \"kron\"? "
        "known: kron, diag, full");
}

TEST_CASE("a struct written and read again is the same, to the last digit", "[io][config]") {
  Config config;
  config.train.lr = 0.1 + 0.2;
  config.train.decay = {1e-300, std::numeric_limits<double>::infinity(), 3.0, 1.0 / 3};
  config.seed = std::numeric_limits<int64_t>::max();
  config.layers = {"a \"quoted\" word", "two\nlines", "é\t\\"};
  config.stage = {{"x"}};
  config.network = parse_toml("layer = [{ type = 'fc', out = 3 }]\n[deep.er]\nb = {c = 1}", "n");
  const auto text = to_text(to_toml(config));
  const auto again = parsed(text);
  CHECK(again.train.lr == config.train.lr);
  CHECK(again.train.decay == config.train.decay);
  CHECK(again.seed == config.seed);
  CHECK(again.layers == config.layers);
  CHECK(again.stage.at(0).name == "x");
  CHECK(again.network == config.network);
  CHECK(to_text(to_toml(again)) == text);
  CHECK(config_hash(to_toml(again)) == config_hash(to_toml(config)));
}

TEST_CASE("equal tables have equal text however they were written", "[io][config]") {
  const auto a = parse_toml("b = 2\na = { x = 1, y = [ { z = 1 } ] }", "a");
  const auto b = parse_toml("[a]\nx = 1\n[[a.y]]\nz = 1\n", "b");
  auto c = b;
  c.insert("b", 2);
  CHECK(to_text(a) == to_text(c));
  CHECK(config_hash(a) != config_hash(b));
}

TEST_CASE("a preset lies over the base, and --set over the preset", "[io][config]") {
  const TemporaryFolder folder;
  const auto file = folder / "a.toml";
  write_text(file, kLayered);
  const auto quick = resolve_config(file, "quick", {"train.lr=0.5", "train.lr=1e-3"});
  CHECK(quick.at_path("train.epochs").value_or(0) == 2);
  CHECK(quick.at_path("train.lr").value_or(0.0) == 1e-3);
  CHECK(quick["seed"].value_or(0) == 1);
  CHECK_FALSE(quick.contains("quick"));
  CHECK_FALSE(quick.contains("paper"));
  CHECK(resolve_config(file, "paper", {})["seed"].value_or(0) == 5);
  CHECK_THROWS_WITH(resolve_config(file, "reduced", {}),
                    Contains("has no preset \"reduced\", only: quick, paper"));
  CHECK_THROWS_WITH(resolve_config(file, "quik", {}), Contains("did you mean \"quick\"?"));

  write_text(file, to_text(quick));  // resolved: it takes any preset, and stays what it is
  CHECK(to_text(resolve_config(file, "reduced", {})) == to_text(quick));
}

TEST_CASE("a --set takes TOML values, bare strings and new tables", "[io][config]") {
  const TemporaryFolder folder;
  const auto file = folder / "a.toml";
  write_text(file, "name = 'a'\n[train]\nlr = 1\n");
  const auto set = [&](const std::string& one) { return resolve_config(file, "quick", {one}); };
  CHECK(set("name=kron")["name"].value_or(std::string()) == "kron");
  CHECK(set("name='quo=ted'")["name"].value_or(std::string()) == "quo=ted");
  CHECK(set("name=")["name"].value_or(std::string("x")).empty());
  CHECK(set("shape=[1, 2]")["shape"].as_array()->size() == 2);
  CHECK(set("a.b.c=true").at_path("a.b.c").value_or(false));
  CHECK(set("train={ lr = 2 }").at_path("train.lr").value_or(0) == 2);
  CHECK(set("x=1\ny=2")["x"].value_or(std::string()) == "1\ny=2");
  CHECK_THROWS_WITH(set("name.x=1"),
                    "--set name.x=1: \"name\" is the string \"a\", expected a table");
  CHECK_THROWS_WITH(set("train"), Contains("expected KEY=VALUE"));
  CHECK_THROWS_WITH(set("train..lr=1"), Contains("empty"));
  CHECK_THROWS_WITH(set("train.=1"), Contains("empty"));
  CHECK_THROWS_AS(set("=1"), UsageError);
}

TEST_CASE("what is wrong in a --set is named as such", "[io][config]") {
  const TemporaryFolder folder;
  const auto file = folder / "a.toml";
  write_text(file, kLayered);
  CHECK_THROWS_WITH(from_toml<Config>(resolve_config(file, "quick", {"train.lr=fast"})),
                    "--set train.lr=fast: train.lr: found the string \"fast\", expected a number");
  CHECK_THROWS_WITH(from_toml<Config>(resolve_config(file, "quick", {"train.epoch=3"})),
                    Contains("--set train.epoch=3: unknown key \"train.epoch\"; did you mean "
                             "\"train.epochs\"?"));
}

TEST_CASE("lines survive merging with a preset", "[io][config]") {
  const TemporaryFolder folder;
  const auto file = folder / "a.toml";
  write_text(file, "[train]\nlr = 1\n[quick.train]\n\nlr = 'x'\n");
  CHECK_THROWS_WITH(from_toml<Config>(resolve_config(file, "quick", {})), Contains("a.toml:5: "));
  write_text(file, "[train]\nlr = 'x'\n[quick.train]\n\nepochs = 1\n");
  CHECK_THROWS_WITH(from_toml<Config>(resolve_config(file, "quick", {})), Contains("a.toml:2: "));
}

TEST_CASE("a file that is missing or no TOML is a usage error with its line", "[io][config]") {
  const TemporaryFolder folder;
  CHECK_THROWS_WITH(resolve_config(folder / "none.toml", "quick", {}),
                    Contains("none.toml: no such file"));
  write_text(folder / "a.toml", "a = 1\nb = = 2\n");
  CHECK_THROWS_WITH(resolve_config(folder / "a.toml", "quick", {}), Contains("a.toml:2: "));
  CHECK_THROWS_AS(resolve_config(folder / "a.toml", "quick", {}), UsageError);
  CHECK_THROWS_WITH(parse_toml("a = 1\na = 2", "b.toml"), Contains("b.toml:2: "));
  write_text(folder / "a.toml", "quick = 3\n");
  CHECK_THROWS_WITH(resolve_config(folder / "a.toml", "quick", {}),
                    Contains("a.toml:1: preset \"quick\" is the integer 3, expected a table"));
}

TEST_CASE("help lists every key with its default, meaning and choices", "[io][config]") {
  const auto text = help_text<Config>();
  CHECK_THAT(text, Contains("seed = 0") && Contains("of every stream"));
  CHECK_THAT(text, Contains("train.lr = 0.1") && Contains("step size of the weight optimiser"));
  CHECK_THAT(text, Contains("structure (kron | diag | full)"));
}
