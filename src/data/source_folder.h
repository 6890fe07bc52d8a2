// The folder of one data set on disk: files found with or without compression, and checked.
#pragma once

#include <filesystem>
#include <map>
#include <string>

namespace evariste {

/// SHA-256 of the decompressed content by file name without .gz or .xz.
using Checksums = std::map<std::string, std::string>;

class SourceFolder {
 public:
  /// `expected` may lack files, which are then taken as they are. `dataset` is the name in
  /// messages.
  SourceFolder(std::filesystem::path folder, std::string dataset, Checksums expected = {});

  bool has(const std::string& file) const;

  /// The decompressed bytes of `file`. Throws UsageError where it is missing (and says how to get
  /// it), IoError where it is damaged or its checksum is not the expected one.
  std::string read(const std::string& file);

  /// For messages: folder/file.
  std::string path(const std::string& file) const { return (folder_ / file).string(); }

  /// Of every file read so far.
  const Checksums& sha256() const { return found_; }

 private:
  std::filesystem::path folder_;
  std::string dataset_;
  Checksums expected_;
  Checksums found_;
};

}  // namespace evariste
