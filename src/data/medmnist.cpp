#include "data/medmnist.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/error.h"
#include "data/npz.h"

namespace evariste {

LabelledImages read_medmnist_split(SourceFolder& folder, const std::string& file, Split split) {
  const std::string prefix = split == Split::Train ? "train" : "test";
  const auto bytes = folder.read(file), source = folder.path(file);
  const auto x = parse_npz(bytes, prefix + "_images", source);
  const auto y = parse_npz(bytes, prefix + "_labels", source).to(torch::kInt64);
  if (x.dim() != 4 || x.scalar_type() != torch::kUInt8 || x.numel() == 0 ||
      x.size(1) != x.size(2) || x.size(2) != x.size(3))
    throw IoError(fmt::format("{}: {}_images: expected [N, S, S, S] uint8, found [{}] {}", source,
                              prefix, fmt::join(x.sizes().vec(), ", "),
                              torch::toString(x.scalar_type())));
  if (y.numel() != x.size(0) || y.dim() < 1 || y.size(0) != y.numel())
    throw IoError(fmt::format("{}: {}_labels: expected [{}, 1], found [{}]", source, prefix,
                              x.size(0), fmt::join(y.sizes().vec(), ", ")));
  return {x.unsqueeze(1), y.flatten()};
}

}  // namespace evariste
