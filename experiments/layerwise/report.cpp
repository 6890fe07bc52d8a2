#include "layerwise/report.h"

#include <fmt/format.h>

#include <cstdlib>

#include "io/command_line.h"

namespace evariste {
namespace fs = std::filesystem;

std::string make_report(const fs::path& out, const std::vector<fs::path>& folders) {
  const char* from_environment = std::getenv("EVARISTE_VENV");
  const fs::path venv = from_environment ? from_environment : EVARISTE_VENV_DIR;
  const auto python = venv / "bin/python";
  if (!fs::exists(python))
    return fmt::format("no figure and report: {} is not there (tools/setup makes it)",
                       python.string());
  const fs::path script = fs::path(EVARISTE_SOURCE_DIR) / "notebooks/render.py";
  std::vector<std::string> words = {python.string(), script.string(), "--out", out.string()};
  for (const auto& folder : folders) words.push_back(folder.string());
  const auto log = out / "report.log";
  const auto command = shell_quoted(words) + " >" + shell_quoted({log.string()}) + " 2>&1";
  if (std::system(command.c_str()) != 0)
    return fmt::format("no figure and report: the notebook failed, {} says why", log.string());
  fs::remove(log);
  return fmt::format("figure     {}\nreport     {}", (out / "figure.png").string(),
                     (out / "report.html").string());
}

}  // namespace evariste
