// The flags every program shares, and how a program ends.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace CLI {
class App;
}

namespace evariste {

struct CommandLine {
  std::filesystem::path config;  ///< --config; empty: the experiment's first TOML
  std::string preset = "quick";  ///< --preset quick|reduced|paper
  std::vector<std::string> set;  ///< --set KEY=VALUE..., in order
  std::optional<int64_t> seed;   ///< --seed; unset: the configuration's
  std::filesystem::path out;     ///< --out; empty: results/EXPERIMENT/...
  bool resume = false;           ///< --resume
  bool force = false;            ///< --force, excludes --resume
  bool dry_run = false;          ///< --dry-run
  bool json = false;             ///< --json
  bool quiet = false;            ///< --quiet
  bool deterministic = false;    ///< --deterministic
  std::string device = "cpu";    ///< --device cpu|cuda|cuda:i
  int threads = 0;               ///< --threads; 0: all cores
  std::filesystem::path
      data_root;        ///< --data-root, else $EVARISTE_DATA, else data/ of the repository
  std::string command;  ///< the whole command line, quoted for a shell
};

/// Parses the common flags and those that `extra` adds to the CLI11 app (include <CLI/CLI.hpp> to
/// write one). --help and --version print and exit with 0. Throws UsageError with one sentence: an
/// unknown flag (and the nearest known one), a bad value, a missing value, --resume with --force.
CommandLine parse_command_line(int argc, char** argv, std::string_view program,
                               std::string_view description,
                               const std::function<void(CLI::App&)>& extra = {});

/// Arguments as one line that a POSIX shell reads back to the same arguments.
std::string shell_quoted(const std::vector<std::string>& arguments);

/// The body of every main: returns what `body` returns; an Error becomes one sentence on stderr and
/// its exit code (2, 3, 4, 130, 143), anything else `internal error: ...` and 1.
int run_program(const std::function<int()>& body);

}  // namespace evariste
