#include "experiments/run/report.h"

#include <fmt/format.h>

#include <sys/wait.h>

#include <csignal>
#include <cstdlib>

#include "core/error.h"
#include "io/command_line.h"

namespace evariste {
namespace fs = std::filesystem;

namespace {

/// Everything that would be made is there and newer than what it is made from.
bool is_fresh(const std::vector<fs::path>& targets, const std::vector<fs::path>& folders) {
  for (const auto& target : targets)
    for (const char* name : {"figure.png", "report.html"})
      for (const auto& folder : folders) {
        std::error_code failure;
        const auto made = fs::last_write_time(target / name, failure);
        if (failure || made < fs::last_write_time(folder / "run.h5")) return false;
      }
  return true;
}

}  // namespace

std::string make_report(const std::string& experiment, const std::string& otherwise,
                        const fs::path& out, const std::vector<fs::path>& folders, bool quiet) {
  auto targets = folders;
  if (!out.empty()) targets.push_back(out);
  const auto done = out.empty()
                        ? std::string()
                        : fmt::format("figure     {}\nreport     {}", (out / "figure.png").string(),
                                      (out / "report.html").string());
  if (is_fresh(targets, folders)) return done;
  const char* from_environment = std::getenv("EVARISTE_VENV");
  const fs::path venv = from_environment ? from_environment : EVARISTE_VENV_DIR;
  const auto python = venv / "bin/python";
  if (!fs::exists(python))
    return fmt::format("no figure and report: {} is not there (tools/setup makes it)",
                       python.string());
  if (!quiet) fmt::print(stderr, "making figures and reports\n");
  const auto notebooks = fs::path(EVARISTE_SOURCE_DIR) / "notebooks";
  const bool has_own = fs::exists(notebooks / (experiment + ".ipynb"));
  std::vector<std::string> words = {python.string(), (notebooks / "render.py").string(),
                                    "--notebook", has_own ? experiment : otherwise};
  if (!out.empty()) words.insert(words.end(), {"--out", out.string()});
  for (const auto& folder : folders) words.push_back(folder.string());
  const auto log = folders.front() / "report.log";
  const auto command = shell_quoted(words) + " >" + shell_quoted({log.string()}) + " 2>&1";
  const int status = std::system(command.c_str());
  // The terminal sends Ctrl-C to the notebook, not to us while we wait for it.
  for (const int number : {SIGINT, SIGTERM})
    if ((WIFSIGNALED(status) && WTERMSIG(status) == number) ||
        (WIFEXITED(status) && WEXITSTATUS(status) == 128 + number))
      throw Interrupted(number);
  if (status != 0)
    return fmt::format("no figure and report: the notebook failed, {} says why", log.string());
  fs::remove(log);
  return done;
}

}  // namespace evariste
