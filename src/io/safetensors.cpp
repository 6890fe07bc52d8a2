#include "io/safetensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>

#include "core/error.h"
#include "core/nearest.h"
#include "io/atomic_file.h"

namespace evariste {
namespace {

using nlohmann::json;
static_assert(std::endian::native == std::endian::little, "bytes are copied as they are");

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the reference implementation
constexpr std::string_view kMetadata = "__metadata__";

struct Dtype {
  std::string_view name;
  int64_t bytes;
};
constexpr std::array<Dtype, 15> kDtypes = {{{"BOOL", 1},
                                            {"U8", 1},
                                            {"I8", 1},
                                            {"F8_E5M2", 1},
                                            {"F8_E4M3", 1},
                                            {"I16", 2},
                                            {"U16", 2},
                                            {"F16", 2},
                                            {"BF16", 2},
                                            {"I32", 4},
                                            {"U32", 4},
                                            {"F32", 4},
                                            {"I64", 8},
                                            {"U64", 8},
                                            {"F64", 8}}};

/// Product of the shape times the element size, or -1 where it is negative or overflows.
int64_t byte_count(const std::vector<int64_t>& shape, int64_t element_bytes) {
  int64_t count = element_bytes;
  for (const auto length : shape)
    if (length < 0 || __builtin_mul_overflow(count, length, &count)) return -1;
  return count;
}

/// A tensor and where its data stand, as the header says.
struct Entry {
  SafeTensor tensor;
  uint64_t begin = 0, end = 0;
};

struct Header {
  std::vector<Entry> entries;  // in the order of their data
  std::map<std::string, std::string> metadata;
  uint64_t data_start = 0;
};

[[noreturn]] void malformed(const std::filesystem::path& path, const std::string& what) {
  throw IoError(fmt::format("{}: damaged safetensors file: {}", path.string(), what));
}

Entry parse_entry(const std::filesystem::path& path, const std::string& name, const json& value) {
  Entry entry;
  entry.tensor.name = name;
  try {
    entry.tensor.dtype = value.at("dtype").get<std::string>();
    for (const auto& length : value.at("shape")) {
      if (!length.is_number_integer()) malformed(path, fmt::format("shape of \"{}\"", name));
      entry.tensor.shape.push_back(length.get<int64_t>());
    }
    const auto& offsets = value.at("data_offsets");
    if (offsets.size() != 2 || !offsets[0].is_number_unsigned() || !offsets[1].is_number_unsigned())
      malformed(path, fmt::format("data_offsets of \"{}\"", name));
    entry.begin = offsets[0].get<uint64_t>();
    entry.end = offsets[1].get<uint64_t>();
  } catch (const json::exception&) {
    malformed(path, fmt::format("\"{}\" lacks dtype, shape or data_offsets", name));
  }
  const auto dtype = std::find_if(kDtypes.begin(), kDtypes.end(),
                                  [&](const Dtype& d) { return d.name == entry.tensor.dtype; });
  if (dtype == kDtypes.end())
    malformed(path, fmt::format("\"{}\" has the unknown dtype \"{}\"", name, entry.tensor.dtype));
  const auto expected = byte_count(entry.tensor.shape, dtype->bytes);
  if (expected < 0 || entry.end < entry.begin ||
      entry.end - entry.begin != static_cast<uint64_t>(expected))
    malformed(
        path,
        fmt::format("\"{}\" is {} [{}] and should have {} bytes, but its data_offsets are {}, {}",
                    name, entry.tensor.dtype, fmt::join(entry.tensor.shape, ", "), expected,
                    entry.begin, entry.end));
  return entry;
}

Header parse_header(const std::filesystem::path& path, const std::string& text,
                    uint64_t data_bytes) {
  Header header;
  json parsed;
  try {
    parsed = json::parse(text);
  } catch (const json::exception&) {
    malformed(path, "its header is not JSON");
  }
  if (!parsed.is_object()) malformed(path, "its header is not a JSON object");
  for (const auto& [name, value] : parsed.items()) {
    if (name == kMetadata) {
      try {
        header.metadata = value.get<std::map<std::string, std::string>>();
      } catch (const json::exception&) {
        malformed(path, "its __metadata__ is not a map of strings");
      }
    } else {
      header.entries.push_back(parse_entry(path, name, value));
    }
  }
  std::sort(header.entries.begin(), header.entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t next = 0;
  for (const auto& entry : header.entries) {
    if (entry.begin != next)
      malformed(path,
                fmt::format("the data of \"{}\" start at {}, expected {}: {}", entry.tensor.name,
                            entry.begin, next, entry.begin < next ? "tensors overlap" : "a hole"));
    next = entry.end;
  }
  if (next != data_bytes)
    malformed(path, fmt::format("its tensors take {} bytes but {} follow the header{}", next,
                                data_bytes, next > data_bytes ? ": it is truncated" : ""));
  return header;
}

/// Reads the header and leaves `file` at the data.
Header open(const std::filesystem::path& path, std::ifstream& file) {
  if (!std::filesystem::is_regular_file(path))
    throw UsageError(fmt::format("{}: no such file", path.string()));
  errno = 0;
  file.open(path, std::ios::binary);
  if (!file)
    throw IoError(
        fmt::format("{}: cannot open: {}", path.string(), std::generic_category().message(errno)));
  const auto file_bytes = std::filesystem::file_size(path);
  std::array<char, 8> prefix{};
  if (!file.read(prefix.data(), prefix.size()))
    malformed(path, fmt::format("{} bytes, too short for a header", file_bytes));
  uint64_t length = 0;
  std::memcpy(&length, prefix.data(), prefix.size());
  if (length > kMaxHeaderBytes || length > file_bytes - prefix.size())
    malformed(path, fmt::format("a header of {} bytes in a file of {}", length, file_bytes));
  std::string text(length, '\0');
  if (!file.read(text.data(), static_cast<std::streamsize>(length)))
    malformed(path, "its header cannot be read");
  return parse_header(path, text, file_bytes - prefix.size() - length);
}

}  // namespace

int64_t safetensors_dtype_bytes(std::string_view dtype) {
  std::vector<std::string> known;
  for (const auto& [name, bytes] : kDtypes) {
    if (name == dtype) return bytes;
    known.emplace_back(name);
  }
  throw UsageError(unknown_name("dtype", dtype, known));
}

std::vector<SafeTensor> read_safetensors(const std::filesystem::path& path) {
  std::ifstream file;
  auto header = open(path, file);
  std::vector<SafeTensor> tensors;
  tensors.reserve(header.entries.size());
  for (auto& [tensor, begin, end] : header.entries) {
    tensor.bytes.resize(end - begin);
    if (!file.read(reinterpret_cast<char*>(tensor.bytes.data()),
                   static_cast<std::streamsize>(tensor.bytes.size())))
      malformed(path, fmt::format("the data of \"{}\" cannot be read", tensor.name));
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

std::map<std::string, std::string> read_safetensors_metadata(const std::filesystem::path& path) {
  std::ifstream file;
  return open(path, file).metadata;
}

void write_safetensors(const std::filesystem::path& path, const std::vector<SafeTensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<const SafeTensor*> order;
  std::set<std::string_view> names;
  for (const auto& tensor : tensors) {
    const auto expected = byte_count(tensor.shape, safetensors_dtype_bytes(tensor.dtype));
    if (expected != static_cast<int64_t>(tensor.bytes.size()))
      throw UsageError(fmt::format("{}: tensor \"{}\" {} [{}] has {} bytes, expected {}",
                                   path.string(), tensor.name, tensor.dtype,
                                   fmt::join(tensor.shape, ", "), tensor.bytes.size(), expected));
    if (!names.insert(tensor.name).second || tensor.name == kMetadata)
      throw UsageError(fmt::format("{}: the name \"{}\" is taken", path.string(), tensor.name));
    order.push_back(&tensor);
  }
  std::stable_sort(order.begin(), order.end(), [](const SafeTensor* a, const SafeTensor* b) {
    return safetensors_dtype_bytes(a->dtype) > safetensors_dtype_bytes(b->dtype);
  });

  json header = json::object();
  if (!metadata.empty()) header[std::string(kMetadata)] = metadata;
  uint64_t offset = 0;
  for (const auto* tensor : order) {
    header[tensor->name] = {{"dtype", tensor->dtype},
                            {"shape", tensor->shape},
                            {"data_offsets", {offset, offset + tensor->bytes.size()}}};
    offset += tensor->bytes.size();
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const json::exception&) {
    throw UsageError(fmt::format("{}: a tensor's name is not UTF-8", path.string()));
  }
  text.append((8 - text.size() % 8) % 8, ' ');

  write_atomically(path, [&](const std::filesystem::path& temporary) {
    std::ofstream file(temporary, std::ios::binary);
    const uint64_t length = text.size();
    file.write(reinterpret_cast<const char*>(&length), sizeof length);
    file.write(text.data(), static_cast<std::streamsize>(text.size()));
    for (const auto* tensor : order)
      file.write(reinterpret_cast<const char*>(tensor->bytes.data()),
                 static_cast<std::streamsize>(tensor->bytes.size()));
    file.close();
    if (!file)
      throw IoError(fmt::format("{}: cannot write: {}", path.string(),
                                std::generic_category().message(errno)));
  });
}

}  // namespace evariste
