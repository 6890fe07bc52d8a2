// Errors by whose fault they are; each carries the exit code of the programs' contract.
//
// An error is one sentence that names the file, the key or the line, what was found and what was
// expected. Not converging is a result, not an error.
#pragma once

#include <stdexcept>
#include <string>

namespace evariste {

/// Base of every error thrown on purpose.
class Error : public std::runtime_error {
 public:
  Error(int exit_code, const std::string& message)
      : std::runtime_error(message), exit_code_(exit_code) {}
  int exit_code() const { return exit_code_; }

 private:
  int exit_code_;
};

/// Usage, configuration or data: a missing file, a bad key, shape or value. Exit code 2.
struct UsageError : Error {
  explicit UsageError(const std::string& message) : Error(2, message) {}
};

/// A number that went wrong during a computation: NaN, not PSD, diverged. Exit code 3.
struct NumericalError : Error {
  explicit NumericalError(const std::string& message) : Error(3, message) {}
};

/// Disk full, file locked, truncated, damaged, wrong checksum. Exit code 4.
struct IoError : Error {
  explicit IoError(const std::string& message) : Error(4, message) {}
};

/// Ctrl-C (130) or SIGTERM (143); the state has been saved before it is thrown.
struct Interrupted : Error {
  explicit Interrupted(int signal)
      : Error(128 + signal, "interrupted: the state is saved, go on with --resume") {}
};

}  // namespace evariste
