#include "data/dataset.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/nearest.h"
#include "data/checksums.h"
#include "data/cifar.h"
#include "data/idx.h"
#include "data/medmnist.h"
#include "data/shapes.h"
#include "data/vectors.h"

namespace evariste {
namespace {

const DatasetEntry& find_entry(std::string_view name) {
  std::vector<std::string> known;
  for (const auto& entry : builtin_datasets()) {
    if (entry.name == name) return entry;
    known.push_back(entry.name);
  }
  throw UsageError(unknown_name("data set", name, known));
}

DatasetEntry medmnist(const char* name, int64_t classes,
                      LabelledImages (*read)(SourceFolder&, Split)) {
  return {name, read, classes, {{0.5}, {0.5}}, {}, false, "medmnist", SampleKind::kVolume};
}

}  // namespace

const std::vector<DatasetEntry>& builtin_datasets() {
  static const std::vector<DatasetEntry> list = {
      {"mnist", read_idx_split, 10, kMnistNormalisation, mnist_checksums()},
      {"fashion-mnist", read_idx_split, 10, kMnistNormalisation, fashion_mnist_checksums()},
      {"cifar10", read_cifar_split, 10, kCifarNormalisation, cifar10_checksums()},
      {"mini/mnist-1k", read_idx_split, 10, kMnistNormalisation},
      {"mini/fashion-1k", read_idx_split, 10, kMnistNormalisation},
      {"mini/cifar10-1k", read_cifar_split, 10, kCifarNormalisation},
      {"shapes", read_shapes, kShapeKinds, kShapesNormalisation, {}, true, {}, SampleKind::kVolume},
      {"vectors", read_vectors, kVectorTargets, {}, {}, true, {}, SampleKind::kPoint},
      medmnist("organmnist3d", 11,
               [](SourceFolder& folder, Split split) {
                 return read_medmnist_split(folder, "organmnist3d.npz", split);
               }),
      medmnist("nodulemnist3d", 2,
               [](SourceFolder& folder, Split split) {
                 return read_medmnist_split(folder, "nodulemnist3d.npz", split);
               }),
      medmnist("synapsemnist3d", 2,
               [](SourceFolder& folder, Split split) {
                 return read_medmnist_split(folder, "synapsemnist3d.npz", split);
               }),
      // A new data set of a known format is one line here.
  };
  return list;
}

int64_t dataset_classes(std::string_view name) { return find_entry(name).classes; }

SampleKind sample_kind(std::string_view name) { return find_entry(name).kind; }

torch::Tensor sample_index(const Dataset& dataset) {
  return dataset.index.defined() ? dataset.index : torch::arange(dataset.size(), torch::kInt64);
}

Dataset load_dataset(std::string_view name, const std::filesystem::path& root, Split split) {
  const auto& entry = find_entry(name);
  const auto place = root / (entry.folder.empty() ? entry.name : entry.folder);
  SourceFolder folder(place, entry.name, entry.sha256);
  auto [x, y] = entry.read(folder, split);
  for (const auto label : {y.min().item<int64_t>(), y.max().item<int64_t>()})
    if (!y.is_floating_point() && (label < 0 || label >= entry.classes))
      throw IoError(fmt::format("{}: {}: label {}, expected 0 to {}", place.string(), entry.name,
                                label, entry.classes - 1));
  return {entry.name,
          x,
          y,
          entry.classes,
          folder.sha256(),
          split,
          entry.normalisation,
          torch::arange(x.size(0), torch::kInt64)};
}

}  // namespace evariste
