#include "data/compressed.h"

#include <fmt/format.h>

#include <boost/iostreams/device/array.hpp>
#include <boost/iostreams/filter/gzip.hpp>
#include <boost/iostreams/filter/lzma.hpp>
#include <boost/iostreams/filtering_stream.hpp>
#include <fstream>
#include <istream>
#include <vector>

#include "core/error.h"

namespace evariste {
namespace {

namespace io = boost::iostreams;

constexpr size_t kChunk = 1 << 20;

/// Everything up to the end of `in`. A decompressor that meets damage throws inside the stream
/// buffer; the stream swallows that and sets badbit, which the caller must look at.
std::string read_all(std::istream& in) {
  std::string bytes;
  std::vector<char> chunk(kChunk);
  while (in) {
    in.read(chunk.data(), static_cast<std::streamsize>(chunk.size()));
    bytes.append(chunk.data(), static_cast<size_t>(in.gcount()));
  }
  return bytes;
}

template <class Decompressor>
std::string decompress(const std::string& packed, const std::filesystem::path& file) {
  io::filtering_istream in;
  in.push(Decompressor());
  in.push(io::array_source(packed.data(), packed.size()));
  auto bytes = read_all(in);
  if (in.bad()) {
    throw IoError(fmt::format("{}: truncated or damaged, {} bytes do not form a whole {} file",
                              file.string(), packed.size(), file.extension().string()));
  }
  return bytes;
}

}  // namespace

std::optional<std::filesystem::path> find_compressed(const std::filesystem::path& name) {
  for (const char* suffix : {"", ".gz", ".xz"}) {
    auto candidate = name;
    candidate += suffix;
    std::error_code ignored;  // what cannot be looked at counts as not there
    if (std::filesystem::is_regular_file(candidate, ignored)) return candidate;
  }
  return std::nullopt;
}

std::string read_decompressed(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw IoError(fmt::format("{}: cannot be read", file.string()));
  auto bytes = read_all(in);
  if (in.bad()) throw IoError(fmt::format("{}: reading failed", file.string()));
  if (file.extension() == ".gz") return decompress<io::gzip_decompressor>(bytes, file);
  if (file.extension() == ".xz") return decompress<io::lzma_decompressor>(bytes, file);
  return bytes;
}

}  // namespace evariste
