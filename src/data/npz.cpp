#include "data/npz.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <boost/crc.hpp>
#include <boost/iostreams/device/array.hpp>
#include <boost/iostreams/filter/zlib.hpp>
#include <boost/iostreams/filtering_stream.hpp>
#include <charconv>
#include <cstring>
#include <istream>
#include <optional>
#include <vector>

#include "core/error.h"
#include "core/stream.h"

namespace evariste {
namespace {

constexpr size_t kEnd = 22, kDirectory = 46, kLocal = 30;  // bytes of zip records without names
constexpr uint64_t kZip64 = 0xffffffff;                    // "see elsewhere"
constexpr uint64_t kEncrypted = 1, kStored = 0, kDeflated = 8;
constexpr std::string_view kNumpy = "\x93NUMPY";

/// The `length` bytes at `place` as a number; throws where they are beyond the end.
uint64_t little_endian(std::string_view bytes, size_t place, size_t length,
                       const std::string& source) {
  if (place > bytes.size() || length > bytes.size() - place)
    throw IoError(
        fmt::format("{}: truncated or damaged, a record of its zip directory lies beyond "
                    "its {} bytes",
                    source, bytes.size()));
  uint64_t value = 0;
  for (size_t i = length; i-- > 0;)
    value = value << 8 | static_cast<unsigned char>(bytes[place + i]);
  return value;
}

struct Entry {
  std::string_view packed;
  uint64_t method = 0, size = 0, crc = 0;
};

/// At most a little more than the directory announces, whatever a damaged member would grow to.
std::string inflate(const Entry& entry) {
  namespace io = boost::iostreams;
  io::zlib_params raw;
  raw.noheader = true;
  io::filtering_istream in;
  in.push(io::zlib_decompressor(raw));
  in.push(io::array_source(entry.packed.data(), entry.packed.size()));
  std::string out;
  std::vector<char> piece(1 << 16);
  while (in && out.size() <= entry.size) {  // damage sets badbit: too few bytes then
    in.read(piece.data(), static_cast<std::streamsize>(piece.size()));
    out.append(piece.data(), static_cast<size_t>(in.gcount()));
  }
  return out;
}

/// The place of the record that ends the archive, behind which at most a comment of 64 KB follows.
size_t find_end(std::string_view bytes, const std::string& source) {
  if (bytes.size() >= kEnd)
    for (size_t place = bytes.size() - kEnd, tries = 0; tries <= 0xffff; --place, ++tries) {
      if (bytes.substr(place, 4) == "PK\5\6") return place;
      if (place == 0) break;
    }
  throw IoError(
      fmt::format("{}: truncated or not a zip archive, {} bytes without the record that "
                  "ends one",
                  source, bytes.size()));
}

std::optional<Entry> find_entry(std::string_view bytes, const std::string& name,
                                const std::string& source) {
  const auto number = [&](size_t place, size_t length) {
    return little_endian(bytes, place, length, source);
  };
  const auto damaged = [&](const char* what) {
    return IoError(fmt::format("{}: truncated or damaged, {}", source, what));
  };
  const auto end = find_end(bytes, source);
  const auto count = number(end + 10, 2);
  auto place = number(end + 16, 4);
  for (uint64_t i = 0; i < count; ++i) {
    if (number(place, 4) != 0x02014b50) throw damaged("its zip directory is broken");
    const auto length = number(place + 28, 2);
    number(place + kDirectory, 0);  // throws where the name would begin beyond the end
    if (bytes.substr(place + kDirectory, length) != name) {
      place += kDirectory + length + number(place + 30, 2) + number(place + 32, 2);
      continue;
    }
    Entry entry;
    entry.method = number(place + 10, 2), entry.crc = number(place + 16, 4);
    const auto packed = number(place + 20, 4), local = number(place + 42, 4);
    entry.size = number(place + 24, 4);
    if (packed == kZip64 || entry.size == kZip64 || local == kZip64)
      throw IoError(fmt::format("{}: expected members below 4 GB, {} is larger", source, name));
    if ((number(place + 8, 2) & kEncrypted) != 0 ||
        (entry.method != kStored && entry.method != kDeflated))
      throw IoError(fmt::format("{}: expected {} stored or deflated, found zip method {}", source,
                                name, entry.method));
    if (number(local, 4) != 0x04034b50) throw damaged("a member is not where its directory says");
    const auto begin = local + kLocal + number(local + 26, 2) + number(local + 28, 2);
    if (begin > bytes.size() || packed > bytes.size() - begin)
      throw damaged("a member ends beyond the file");
    entry.packed = bytes.substr(begin, packed);
    return entry;
  }
  return std::nullopt;
}

/// The text behind 'key': in the header of a .npy file, up to what ends the value.
std::string_view value_of(std::string_view header, std::string_view key) {
  const auto found = header.find(fmt::format("'{}':", key));
  if (found == std::string_view::npos) return {};
  auto value = header.substr(found + key.size() + 3);
  value.remove_prefix(std::min(value.find_first_not_of(' '), value.size()));
  if (value.empty()) return {};
  const auto last = value[0] == '(' ? value.find(')') : value.find_first_of(",}");
  return last == std::string_view::npos ? std::string_view() : value.substr(0, last);
}

torch::Tensor parse_npy(std::string_view bytes, const std::string& source) {
  const auto number = [&](size_t place, size_t length) {
    return little_endian(bytes, place, length, source);
  };
  if (!bytes.starts_with(kNumpy)) throw IoError(fmt::format("{}: not a .npy array", source));
  const size_t width = number(6, 1) == 1 ? 2 : 4;
  const auto length = number(8, width);
  if (length > bytes.size()) throw IoError(fmt::format("{}: truncated in its header", source));
  const auto header = bytes.substr(8 + width, length);
  const auto payload = bytes.substr(std::min<size_t>(8 + width + length, bytes.size()));
  const auto type = value_of(header, "descr"), order = value_of(header, "fortran_order");
  const bool is_bytes = type == "'|u1'" || type == "'<u1'";
  if (!is_bytes && type != "'<i8'")
    throw IoError(fmt::format("{}: expected the type '|u1' or '<i8', found {}", source, type));
  if (order != "False")
    throw IoError(fmt::format("{}: expected C order, found fortran_order = {}", source, order));
  std::vector<int64_t> sizes;
  uint128 expected = is_bytes ? 1 : 8;
  auto shape = value_of(header, "shape");
  while (!shape.empty()) {
    shape.remove_prefix(std::min(shape.find_first_of("0123456789"), shape.size()));
    if (shape.empty()) break;
    int64_t size = 0;
    const auto* after = std::from_chars(shape.data(), shape.data() + shape.size(), size).ptr;
    shape.remove_prefix(static_cast<size_t>(after - shape.data()));
    sizes.push_back(size);
    if (expected < uint128{1} << 64) expected *= static_cast<uint64_t>(size);
  }
  if (expected != payload.size())
    throw IoError(
        fmt::format("{}: truncated or damaged, its header announces [{}] but {} bytes "
                    "follow",
                    source, fmt::join(sizes, ", "), payload.size()));
  auto tensor = torch::empty(sizes, is_bytes ? torch::kUInt8 : torch::kInt64);
  if (!payload.empty()) std::memcpy(tensor.data_ptr(), payload.data(), payload.size());
  return tensor;
}

}  // namespace

torch::Tensor parse_npz(std::string_view bytes, const std::string& name,
                        const std::string& source) {
  const auto entry = find_entry(bytes, name + ".npy", source);
  if (!entry) throw IoError(fmt::format("{}: has no array {}", source, name));
  const auto place = fmt::format("{}: {}", source, name);
  const auto content = entry->method == kStored ? std::string(entry->packed) : inflate(*entry);
  boost::crc_32_type crc;
  crc.process_bytes(content.data(), content.size());
  if (content.size() != entry->size || crc.checksum() != entry->crc)
    throw IoError(
        fmt::format("{}: truncated or damaged, {} bytes with CRC-32 {:08x}, expected {} "
                    "with {:08x}",
                    place, content.size(), crc.checksum(), entry->size, entry->crc));
  return parse_npy(content, place);
}

}  // namespace evariste
