#include "data/source_folder.h"

#include <fmt/format.h>

#include <utility>

#include "core/error.h"
#include "core/sha256.h"
#include "data/compressed.h"

namespace evariste {

SourceFolder::SourceFolder(std::filesystem::path folder, std::string dataset, Checksums expected)
    : folder_(std::move(folder)), dataset_(std::move(dataset)), expected_(std::move(expected)) {}

bool SourceFolder::has(const std::string& file) const {
  return find_compressed(folder_ / file).has_value();
}

std::string SourceFolder::read(const std::string& file) {
  const auto source = find_compressed(folder_ / file);
  if (!source) {
    throw UsageError(fmt::format(
        "{} (or .gz, .xz) was not found: get the data set with `data/fetch {}`, or name the folder "
        "that holds it with --data-root",
        path(file), dataset_));
  }
  auto bytes = read_decompressed(*source);
  const auto sum = sha256_hex(bytes);
  if (const auto known = expected_.find(file); known != expected_.end() && known->second != sum) {
    throw IoError(fmt::format(
        "{}: the SHA-256 of its decompressed content is {}, expected {}: get it again with "
        "`data/fetch {}`",
        source->string(), sum, known->second, dataset_));
  }
  found_[file] = sum;
  return bytes;
}

}  // namespace evariste
