#include "io/provenance.h"

#include <fmt/format.h>
#include <sys/utsname.h>

#include <fstream>
#include <thread>

#include "io/build_info.h"
#include "io/config.h"

#ifdef EVARISTE_HDF5
#include <hdf5.h>
#endif

namespace evariste {
namespace {

std::string cpu_model(const utsname& machine) {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (!line.starts_with("model name")) continue;
    const auto value = line.find_first_not_of(" \t:", line.find(':'));
    if (value != std::string::npos) return line.substr(value);
  }
  return machine.machine;  // ARM has no model name there
}

std::string compiler_text() {
#ifdef __clang__
  return fmt::format("{}, {}", __VERSION__, EVARISTE_BUILD_TYPE);
#else
  return fmt::format("g++ {}, {}", __VERSION__, EVARISTE_BUILD_TYPE);
#endif
}

}  // namespace

Provenance collect_provenance(const toml::table& config, const CommandLine& command_line,
                              std::map<std::string, std::string> libraries,
                              std::map<std::string, std::string> data_sha256) {
  utsname machine{};
  uname(&machine);
  const auto cores = static_cast<int>(std::thread::hardware_concurrency());
#ifdef EVARISTE_HDF5
  libraries.emplace("hdf5", fmt::format("{}.{}.{}", H5_VERS_MAJOR, H5_VERS_MINOR, H5_VERS_RELEASE));
#endif
  Provenance made;
  made.seed = command_line.seed.value_or(config["seed"].value_or<int64_t>(0));
  made.git_sha = git_sha();
  made.git_dirty = is_git_dirty();
  made.command = command_line.command;
  made.config = to_text(config);
  made.config_hash = config_hash(config);
  made.host = machine.nodename;
  made.cpu = cpu_model(machine);
  made.device = command_line.device;
  made.threads = command_line.threads > 0 ? command_line.threads : cores;
  made.deterministic = command_line.deterministic;
  made.compiler = compiler_text();
  made.libraries = std::move(libraries);
  made.data_sha256 = std::move(data_sha256);
  made.start = utc_now();
  return made;
}

std::string version_text() {
  const auto sha = git_sha();
  return fmt::format("{} (git {}{})", EVARISTE_VERSION, sha.substr(0, 10),
                     is_git_dirty() ? ", changed since" : "");
}

}  // namespace evariste
