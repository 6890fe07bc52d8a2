// Tiny data sets written to a folder of their own, plain or compressed.
#pragma once

#include "tests/catch.h"

#include <boost/iostreams/device/back_inserter.hpp>
#include <boost/iostreams/filter/gzip.hpp>
#include <boost/iostreams/filter/lzma.hpp>
#include <boost/iostreams/filtering_stream.hpp>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>

#include "core/error.h"

/// Removed with everything in it at the end of the test.
class TemporaryFolder {
 public:
  TemporaryFolder()
      : path_(std::filesystem::temp_directory_path() /
              ("evariste-data-" + std::to_string(std::random_device()()))) {
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// `bytes` packed as `suffix` ("", ".gz" or ".xz") says.
inline std::string packed(const std::string& bytes, const std::string& suffix) {
  std::string out;
  boost::iostreams::filtering_ostream stream;
  if (suffix == ".gz") stream.push(boost::iostreams::gzip_compressor());
  if (suffix == ".xz") stream.push(boost::iostreams::lzma_compressor());
  stream.push(boost::iostreams::back_inserter(out));
  stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  stream.reset();
  return out;
}

inline void write_file(const std::filesystem::path& file, const std::string& bytes) {
  std::filesystem::create_directories(file.parent_path());
  std::ofstream(file, std::ios::binary) << bytes;
}

/// Pixel i of everything is (7 i) mod 251: no two neighbouring images agree.
inline std::string pixels(size_t n) {
  std::string bytes;
  for (size_t i = 0; i < n; ++i) bytes += static_cast<char>((7 * i) % 251);
  return bytes;
}

inline std::string word(uint32_t value) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift);
  return bytes;
}

inline std::string idx_images(uint32_t n, uint32_t rows = 28, uint32_t columns = 28) {
  return word(0x803) + word(n) + word(rows) + word(columns) + pixels(size_t{n} * rows * columns);
}

/// Labels 0 1 ... 9 0 1 ...
inline std::string idx_labels(uint32_t n) {
  std::string bytes = word(0x801) + word(n);
  for (uint32_t i = 0; i < n; ++i) bytes += static_cast<char>(i % 10);
  return bytes;
}

/// Records of CIFAR-10; label of record i is (first + i) mod 10.
inline std::string cifar_records(size_t n, size_t first = 0) {
  std::string bytes;
  for (size_t i = 0; i < n; ++i) bytes += static_cast<char>((first + i) % 10) + pixels(3072);
  return bytes;
}

/// An IDX set of n train and n test images.
inline void write_idx_set(const std::filesystem::path& folder, uint32_t n,
                          const std::string& suffix = "") {
  for (const std::string prefix : {"train", "t10k"}) {
    write_file(folder / (prefix + "-images-idx3-ubyte" + suffix), packed(idx_images(n), suffix));
    write_file(folder / (prefix + "-labels-idx1-ubyte" + suffix), packed(idx_labels(n), suffix));
  }
}

/// "<exit code>: <message>" of the Error that `call` throws; "" where it throws none.
template <class Call>
std::string error_of(Call&& call) {
  try {
    call();
  } catch (const evariste::Error& error) {
    return std::to_string(error.exit_code()) + ": " + error.what();
  }
  return "";
}
