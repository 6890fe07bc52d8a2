// Where a run file comes from: enough to repeat the run in two years.
#pragma once

// clang-format off
#include <toml++/toml.h>
// clang-format on

#include <cstdint>
#include <map>
#include <string>

#include "io/command_line.h"
#include "io/utc.h"

namespace evariste {

/// Each member is a root attribute of run.h5 under its own name.
struct Provenance {
  std::string status = "running";  ///< running | finished | interrupted | failed
  int64_t seed = 0;
  std::string git_sha;     ///< of the source at build time, "unknown" outside a repository
  bool git_dirty = false;  ///< tracked files differed from that commit
  std::string command;
  std::string config;       ///< the resolved configuration, TOML
  std::string config_hash;  ///< SHA-256 of `config`
  std::string host;
  std::string cpu;        ///< model name
  std::string device;     ///< as asked for; programs may write the GPU's name
  int threads = 0;        ///< of each process
  int64_t processes = 1;  ///< that computed it together
  bool deterministic = false;
  std::string compiler;                            ///< `g++ 12.2.0, Release`
  std::map<std::string, std::string> libraries;    ///< name -> version
  std::map<std::string, std::string> data_sha256;  ///< data set -> checksum
  std::string start, end;                          ///< ISO 8601, UTC
  double wall_seconds = 0;
};

/// Fills everything but `end` and `wall_seconds`. The seed is --seed, else the configuration's
/// top-level key `seed`, else 0; 0 threads become the number of cores. The version of HDF5 is
/// added.
Provenance collect_provenance(const toml::table& config, const CommandLine& command_line,
                              std::map<std::string, std::string> libraries = {},
                              std::map<std::string, std::string> data_sha256 = {});

/// `0.1.0 (git 1a2b3c4d5e, changed since)`, for --version.
std::string version_text();

}  // namespace evariste
