#include "data/idx.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstring>
#include <vector>

#include "core/error.h"
#include "core/stream.h"

namespace evariste {
namespace {

constexpr uint32_t kImages = 0x0803, kLabels = 0x0801;  // 08: uint8; 03, 01: number of dimensions

uint32_t big_endian(std::string_view bytes, size_t word) {
  uint32_t value = 0;
  for (size_t i = 4 * word; i < 4 * word + 4; ++i)
    value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

/// Checks the header against the bytes that follow it. -> the dimensions and, as `payload`, the
/// rest.
std::vector<int64_t> parse_header(std::string_view bytes, uint32_t magic, const std::string& source,
                                  std::string_view& payload) {
  const size_t dims = magic & 0xff, header = 4 * (1 + dims);
  if (bytes.size() < header) {
    throw IoError(fmt::format("{}: truncated, {} bytes are shorter than an IDX header of {}",
                              source, bytes.size(), header));
  }
  if (big_endian(bytes, 0) != magic) {
    throw IoError(fmt::format("{}: IDX magic number 0x{:08x}, expected 0x{:08x}", source,
                              big_endian(bytes, 0), magic));
  }
  std::vector<int64_t> sizes;
  uint128 expected = 1;  // three damaged 32-bit sizes overflow 64 bits
  for (size_t d = 1; d <= dims; ++d) {
    sizes.push_back(big_endian(bytes, d));
    expected *= big_endian(bytes, d);
  }
  payload = bytes.substr(header);
  if (expected == 0) throw IoError(fmt::format("{}: its IDX header announces no data", source));
  if (expected != payload.size()) {
    throw IoError(fmt::format("{}: {}, its IDX header announces {} but {} bytes follow", source,
                              payload.size() < expected ? "truncated" : "too long",
                              fmt::join(sizes, " x "), payload.size()));
  }
  return sizes;
}

torch::Tensor bytes_tensor(std::string_view payload, const std::vector<int64_t>& sizes) {
  auto tensor = torch::empty(sizes, torch::kUInt8);
  std::memcpy(tensor.data_ptr<uint8_t>(), payload.data(), payload.size());
  return tensor;
}

}  // namespace

torch::Tensor parse_idx_images(std::string_view bytes, const std::string& source) {
  std::string_view payload;
  const auto sizes = parse_header(bytes, kImages, source, payload);
  return bytes_tensor(payload, {sizes[0], 1, sizes[1], sizes[2]});
}

torch::Tensor parse_idx_labels(std::string_view bytes, const std::string& source) {
  std::string_view payload;
  const auto sizes = parse_header(bytes, kLabels, source, payload);
  return bytes_tensor(payload, sizes).to(torch::kInt64);
}

LabelledImages read_idx_split(SourceFolder& folder, Split split) {
  const std::string prefix = split == Split::Train ? "train" : "t10k";
  const auto images = prefix + "-images-idx3-ubyte", labels = prefix + "-labels-idx1-ubyte";
  LabelledImages set{parse_idx_images(folder.read(images), folder.path(images)),
                     parse_idx_labels(folder.read(labels), folder.path(labels))};
  if (set.x.size(0) != set.y.size(0)) {
    throw IoError(fmt::format("{}: {} labels, but {} images in {}", folder.path(labels),
                              set.y.size(0), set.x.size(0), images));
  }
  return set;
}

}  // namespace evariste
