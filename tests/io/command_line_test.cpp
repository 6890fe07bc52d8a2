#include "io/command_line.h"

#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>
#include <new>

#include "core/error.h"
#include "core/sha256.h"
#include "io/config.h"
#include "io/provenance.h"
#include "tests/catch.h"
#include "tests/io/temporary_folder.h"

using namespace evariste;

namespace {

CommandLine parse(std::vector<std::string> arguments,
                  const std::function<void(CLI::App&)>& extra = {}) {
  arguments.insert(arguments.begin(), "layerwise");
  std::vector<char*> argv;
  for (auto& argument : arguments) argv.push_back(argument.data());
  return parse_command_line(static_cast<int>(argv.size()), argv.data(), "layerwise",
                            "learns symmetry", extra);
}

/// What run_program writes on stderr, and its exit code.
std::pair<std::string, int> ended(const std::function<int()>& body) {
  std::ostringstream text;
  auto* before = std::cerr.rdbuf(text.rdbuf());
  const int code = run_program(body);
  std::cerr.rdbuf(before);
  return {text.str(), code};
}

}  // namespace

TEST_CASE("the common flags have the defaults of the contract", "[io][cli]") {
  const auto line = parse({});
  CHECK(line.preset == "quick");
  CHECK(line.device == "cpu");
  CHECK(line.threads == 0);
  CHECK_FALSE(line.seed.has_value());
  CHECK_FALSE(line.resume);
  CHECK(line.config.empty());
}

TEST_CASE("every common flag is read", "[io][cli]") {
  const auto line =
      parse({"--config",  "a.toml", "--preset",  "paper",   "--set",       "a=1", "b=[1,2]",
             "--seed",    "-3",     "--set",     "c='x y'", "--out",       "o",   "--resume",
             "--device",  "cuda:1", "--threads", "2",       "--data-root", "d",   "--deterministic",
             "--dry-run", "--json", "--quiet"});
  CHECK(line.config == "a.toml");
  CHECK(line.preset == "paper");
  CHECK(line.set == std::vector<std::string>{"a=1", "b=[1,2]", "c='x y'"});
  CHECK(line.seed == -3);
  CHECK(line.out == "o");
  CHECK((line.resume && line.deterministic && line.dry_run && line.json && line.quiet));
  CHECK(line.device == "cuda:1");
  CHECK(line.threads == 2);
  CHECK(line.data_root == "d");
  CHECK_THAT(line.command, Contains("layerwise --config a.toml") && Contains("'b=[1,2]'") &&
                               Contains(R"('c='\''x y'\''')"));
  CHECK(parse({"--preset=quick", "--preset", "reduced"}).preset == "reduced");  // the last one
  CHECK(parse({"--force"}).force);
}

TEST_CASE("the data root is the flag, else the environment, else data/", "[io][cli]") {
  unsetenv("EVARISTE_DATA");
  CHECK(parse({}).data_root.filename() == "data");
  setenv("EVARISTE_DATA", "/somewhere", 1);
  CHECK(parse({}).data_root == "/somewhere");
  CHECK(parse({"--data-root", "x"}).data_root == "x");
  unsetenv("EVARISTE_DATA");
}

TEST_CASE("wrong use of the command line says what to type", "[io][cli]") {
  const auto message = [](std::vector<std::string> arguments) -> std::string {
    try {
      parse(std::move(arguments));
    } catch (const UsageError& error) {
      return error.what();
    }
    return "accepted";
  };
  CHECK(message({"--sead", "3"}) == "unknown flag --sead; did you mean --seed? see --help");
  CHECK(message({"--presett=quick"}) ==
        "unknown flag --presett; did you mean --preset? see --help");
  CHECK(message({"stray"}) == "unexpected argument \"stray\"; see --help");
  CHECK_THAT(message({"--preset", "quik"}), Contains("--preset: unknown preset \"quik\"; did you "
                                                     "mean \"quick\"?"));
  CHECK_THAT(message({"--seed", "1.5"}), Contains("--seed: found \"1.5\", expected an integer"));
  CHECK_THAT(message({"--seed"}), Contains("--seed: a value is missing"));
  CHECK_THAT(message({"--threads", "-1"}), Contains("--threads: found \"-1\""));
  CHECK_THAT(message({"--device", "gpu"}), Contains("expected cpu, cuda or cuda:0"));
  CHECK_THAT(message({"--device", "cuda:x"}), Contains("expected cpu, cuda or cuda:0"));
  CHECK_THAT(message({"--set", "lr"}), Contains("expected KEY=VALUE"));
  CHECK_THAT(message({"--resume", "--force"}), Contains("--force") && Contains("--resume"));
}

TEST_CASE("a program adds flags of its own", "[io][cli]") {
  std::string network;
  const auto add = [&](CLI::App& app) { app.add_option("--network", network)->required(); };
  parse({"--network", "n.toml"}, add);
  CHECK(network == "n.toml");
  CHECK_THROWS_WITH(parse({}, add), Contains("--network is required"));
}

TEST_CASE("the flags --help and --version print and exit with 0", "[io][cli]") {
  const TemporaryFolder folder;
  for (const auto& [flag, expected] : std::vector<std::pair<std::string, std::string>>{
           {"--help", "--data-root DIR"}, {"--version", "layerwise "}}) {
    const auto path = (folder / "out").string();
    const int status = status_of_child([&flag = flag, &path] {
      if (std::freopen(path.c_str(), "w", stdout) == nullptr) return 3;
      parse({flag});
      return 4;
    });
    CHECK(status == 0);
    std::ifstream file(path);
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    CHECK_THAT(text, Contains(expected));
  }
}

TEST_CASE("a quoted command line is read back by a shell", "[io][cli]") {
  const std::vector<std::string> arguments = {"a b", "it's", "", "$HOME", "--set", "x=[1, 2]", "*"};
  const TemporaryFolder folder;
  const auto out = (folder / "out").string();
  const auto command = "printf '%s\\n' " + shell_quoted(arguments) + " > " + shell_quoted({out});
  REQUIRE(std::system(command.c_str()) == 0);
  std::ifstream file(out);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  CHECK(lines == arguments);
  CHECK(shell_quoted({"./layerwise", "--set", "a.b=1"}) == "./layerwise --set a.b=1");
}

TEST_CASE("a program ends with the exit code of the contract and one sentence", "[io][cli]") {
  using Ended = std::pair<std::string, int>;
  CHECK(ended([] { return 0; }) == Ended("", 0));
  CHECK(ended([]() -> int { throw UsageError("a: b"); }) == Ended("error: a: b\n", 2));
  CHECK(ended([]() -> int { throw NumericalError("NaN"); }) == Ended("error: NaN\n", 3));
  CHECK(ended([]() -> int { throw IoError("full"); }) == Ended("error: full\n", 4));
  CHECK(ended([]() -> int { throw Interrupted(2); }).second == 130);
  CHECK(ended([]() -> int { throw std::runtime_error("what\nframe #0: 0x1234"); }) ==
        Ended("error: internal error: what\n", 1));
  CHECK(ended([]() -> int { throw std::bad_alloc(); }).second == 1);
}

TEST_CASE("results that cannot be written are an I/O error", "[io][cli]") {
  const int code = exit_code_of_child([] {
    if (std::freopen("/dev/full", "w", stdout) == nullptr) return 9;
    std::cerr.rdbuf(nullptr);
    return run_program([] {
      std::cout << "a result";
      return 0;
    });
  });
  CHECK(code == 4);
}

TEST_CASE("provenance holds what is needed to repeat a run", "[io][provenance]") {
  const auto config = parse_toml("seed = 4\nlr = 0.1", "a.toml");
  const auto made = collect_provenance(config, parse({"--threads", "3", "--deterministic"}),
                                       {{"torch", "2.11.0"}}, {{"mnist", "abc"}});
  CHECK(made.status == "running");
  CHECK(made.seed == 4);
  CHECK(made.threads == 3);
  CHECK(made.deterministic);
  CHECK(made.command == "layerwise --threads 3 --deterministic");
  CHECK(to_text(parse_toml(made.config, "again")) == made.config);
  CHECK(made.config_hash == sha256_hex(made.config));
  CHECK((made.git_sha == "unknown" || made.git_sha.size() == 40));
  CHECK_FALSE(made.host.empty());
  CHECK_FALSE(made.cpu.empty());
  CHECK(made.libraries.at("torch") == "2.11.0");
  CHECK(made.data_sha256.at("mnist") == "abc");
  CHECK(made.start.size() == 20);
  CHECK(made.start.back() == 'Z');
  CHECK(collect_provenance(config, parse({"--seed", "9"})).seed == 9);
  CHECK(collect_provenance(config, parse({})).threads > 0);
}
