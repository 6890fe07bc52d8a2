#include "data/cifar.h"

#include <fmt/format.h>

#include <cstring>
#include <vector>

#include "core/error.h"

namespace evariste {
namespace {

constexpr size_t kPixels = 3 * 32 * 32, kRecord = 1 + kPixels;
constexpr int kBatches = 5;

}  // namespace

LabelledImages parse_cifar(std::string_view bytes, const std::string& source) {
  if (bytes.empty() || bytes.size() % kRecord != 0) {
    throw IoError(fmt::format("{}: truncated or damaged, {} bytes are not whole records of {}",
                              source, bytes.size(), kRecord));
  }
  const size_t n = bytes.size() / kRecord;
  LabelledImages set{torch::empty({static_cast<int64_t>(n), 3, 32, 32}, torch::kUInt8),
                     torch::empty({static_cast<int64_t>(n)}, torch::kInt64)};
  auto* x = set.x.data_ptr<uint8_t>();
  auto* y = set.y.data_ptr<int64_t>();
  for (size_t i = 0; i < n; ++i) {
    y[i] = static_cast<unsigned char>(bytes[i * kRecord]);
    std::memcpy(x + i * kPixels, bytes.data() + i * kRecord + 1, kPixels);
  }
  return set;
}

LabelledImages read_cifar_split(SourceFolder& folder, Split split) {
  const auto read = [&](const std::string& file) {
    return parse_cifar(folder.read(file), folder.path(file));
  };
  if (split == Split::Test) return read("test_batch.bin");
  std::vector<torch::Tensor> x, y;
  for (int batch = 1; batch <= kBatches; ++batch) {
    const auto file = fmt::format("data_batch_{}.bin", batch);
    if (!folder.has(file)) continue;
    const auto part = read(file);
    x.push_back(part.x), y.push_back(part.y);
  }
  if (x.empty()) return read("data_batch_1.bin");  // throws, and says how to get it
  return {torch::cat(x), torch::cat(y)};
}

}  // namespace evariste
