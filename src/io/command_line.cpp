#include "io/command_line.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <limits>
#include <new>

#include "core/error.h"
#include "core/memory.h"
#include "core/nearest.h"
#include "io/provenance.h"

namespace evariste {
namespace {

/// CLI11 validators return what is wrong, or nothing.
std::string check_integer(const std::string& text, int64_t low, int64_t high,
                          const char* expected) {
  int64_t value = 0;
  const auto* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, value);
  if (parsed.ec == std::errc() && parsed.ptr == end && low <= value && value <= high) return "";
  return fmt::format("found \"{}\", expected {}", text, expected);
}

std::string check_seed(const std::string& text) {
  return check_integer(text, std::numeric_limits<int64_t>::min(),
                       std::numeric_limits<int64_t>::max(), "an integer");
}

std::string check_threads(const std::string& text) {
  return check_integer(text, 0, 4096, "a number of threads, 0 for all cores");
}

std::string check_device(const std::string& text) {
  if (text == "cpu" || text == "cuda") return "";
  if (text.starts_with("cuda:") && check_integer(text.substr(5), 0, 1023, "").empty()) return "";
  return fmt::format("found \"{}\", expected cpu, cuda or cuda:0", text);
}

std::string check_preset(const std::string& text) {
  const std::vector<std::string> known = {"quick", "reduced", "paper"};
  if (std::find(known.begin(), known.end(), text) != known.end()) return "";
  return unknown_name("preset", text, known);
}

std::string check_set(const std::string& text) {
  const auto equals = text.find('=');
  if (equals != std::string::npos && equals > 0) return "";
  return fmt::format("found \"{}\", expected KEY=VALUE, as in train.lr=0.1", text);
}

std::filesystem::path default_data_root() {
  const char* root = std::getenv("EVARISTE_DATA");
  if (root != nullptr && *root != '\0') return root;
  return std::filesystem::path(EVARISTE_SOURCE_DIR) / "data";
}

void add_common_flags(CLI::App& app, CommandLine& line) {
  const auto last = CLI::MultiOptionPolicy::TakeLast;  // so that a script may append to a command
  app.add_option("--config", line.config, "TOML file; default: the first of this experiment")
      ->multi_option_policy(last)
      ->type_name("FILE");
  app.add_option("--preset", line.preset, "quick | reduced | paper")
      ->multi_option_policy(last)
      ->check(check_preset)
      ->type_name("NAME");
  app.add_option("--set", line.set, "change keys of the configuration, as in train.lr=0.1")
      ->check(check_set)
      ->type_name("KEY=VALUE");
  app.add_option("--seed", line.seed, "seed of every random stream")
      ->multi_option_policy(last)
      ->check(check_seed)
      ->type_name("N");
  app.add_option("--out", line.out, "folder of the results")
      ->multi_option_policy(last)
      ->type_name("DIR");
  auto* resume = app.add_flag("--resume", line.resume, "go on with an interrupted run");
  app.add_flag("--force", line.force, "start afresh in a folder that holds a run")
      ->excludes(resume);
  app.add_option("--device", line.device, "cpu | cuda | cuda:i")
      ->multi_option_policy(last)
      ->check(check_device)
      ->type_name("NAME");
  app.add_option("--threads", line.threads, "0: all cores")
      ->multi_option_policy(last)
      ->check(check_threads)
      ->type_name("N");
  app.add_option("--data-root", line.data_root, "data sets; default: $EVARISTE_DATA, then data/")
      ->multi_option_policy(last)
      ->type_name("DIR");
  app.add_flag("--deterministic", line.deterministic, "only deterministic algorithms");
  app.add_flag("--dry-run", line.dry_run, "print configuration, memory and time, and stop");
  app.add_flag("--json", line.json, "one JSON object on stdout, all else on stderr");
  app.add_flag("--quiet", line.quiet, "no progress");
}

std::vector<std::string> flag_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const auto* option : app.get_options())
    for (const auto& name : option->get_lnames()) names.push_back("--" + name);
  return names;
}

[[noreturn]] void refuse_extras(const CLI::App& app) {
  const auto extras = app.remaining();
  auto found = std::find_if(extras.begin(), extras.end(),
                            [](const std::string& extra) { return extra.starts_with("-"); });
  if (found == extras.end())
    throw UsageError(fmt::format("unexpected argument \"{}\"; see --help", extras.front()));
  const auto name = found->substr(0, found->find('='));
  const auto near = nearest_name(name, flag_names(app));
  const auto hint = near.empty() ? std::string() : fmt::format("did you mean {}? ", near);
  throw UsageError(fmt::format("unknown flag {}; {}see --help", name, hint));
}

[[noreturn]] void refuse(const CLI::ParseError& error) {
  std::string text = error.what();
  if (const auto* mismatch = dynamic_cast<const CLI::ArgumentMismatch*>(&error)) {
    const std::string what = mismatch->what();
    text = fmt::format("{}: a value is missing", what.substr(0, what.find_first_of(": ")));
  }
  if (dynamic_cast<const CLI::ConversionError*>(&error)) {  // "Could not convert: --noise = abc"
    const auto flag = text.find("--"), equals = text.find(" = ", flag);
    if (flag != std::string::npos && equals != std::string::npos)
      text = fmt::format("{}: found \"{}\", expected a number", text.substr(flag, equals - flag),
                         text.substr(equals + 3));
  }
  std::replace(text.begin(), text.end(), '\n', ' ');
  throw UsageError(text);
}

/// The first line of a message: torch and the standard library append stack traces.
std::string first_line(std::string_view text) {
  return std::string(text.substr(0, text.find('\n')));
}

int end_with(const std::string& message, int exit_code) {
  std::cerr << "error: " << message << std::endl;
  return exit_code;
}

}  // namespace

CommandLine parse_command_line(int argc, char** argv, std::string_view program,
                               std::string_view description,
                               const std::function<void(CLI::App&)>& extra) {
  CommandLine line;
  CLI::App app{std::string(description), std::string(program)};
  app.set_version_flag("--version", fmt::format("{} {}", program, version_text()));
  app.get_formatter()->column_width(30);
  add_common_flags(app, line);
  if (extra) extra(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& done) {  // --help, --version
    std::exit(app.exit(done));
  } catch (const CLI::ExtrasError&) {
    refuse_extras(app);
  } catch (const CLI::ParseError& error) {
    refuse(error);
  }
  if (line.data_root.empty()) line.data_root = default_data_root();
  line.command = shell_quoted({argv, argv + argc});
  return line;
}

std::string shell_quoted(const std::vector<std::string>& arguments) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%";
  std::string text;
  for (const auto& argument : arguments) {
    if (!text.empty()) text += ' ';
    if (!argument.empty() && argument.find_first_not_of(kPlain) == std::string::npos) {
      text += argument;
      continue;
    }
    text += '\'';
    for (const char c : argument) text += c == '\'' ? "'\\''" : std::string(1, c);
    text += '\'';
  }
  return text;
}

int run_program(const std::function<int()>& body) {
  keep_freed_memory();
  try {
    const int code = body();
    if (!std::cout.flush() || std::fflush(stdout) != 0)
      throw IoError("standard output: cannot write, is the disk full?");
    return code;
  } catch (const Error& error) {
    return end_with(error.what(), error.exit_code());
  } catch (const std::bad_alloc&) {
    return end_with("out of memory: try a smaller batch, --dry-run predicts the need", 1);
  } catch (const std::exception& error) {
    return end_with("internal error: " + first_line(error.what()), 1);
  }
}

}  // namespace evariste
