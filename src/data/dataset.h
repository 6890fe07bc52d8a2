// A data set: named, checksummed, with the split and the identity of each sample.
//
// The dtype of `x` says how far it has come: uint8 is raw (0 background, 255 ink), float32 is
// normalised. A function that wants the one refuses the other.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "data/labelled_images.h"
#include "data/source_folder.h"

namespace evariste {

/// Per channel, of pixels divided by 255. Empty where a data set has none.
struct Normalisation {
  std::vector<double> mean, std;
};

inline const Normalisation kMnistNormalisation = {{0.1307}, {0.3081}};
inline const Normalisation kCifarNormalisation = {{125.3 / 255, 123.0 / 255, 113.9 / 255},
                                                  {63.0 / 255, 62.1 / 255, 66.7 / 255}};

struct Dataset {
  std::string name;
  torch::Tensor x;  ///< [N, C, H, W], or volumes [N, C, D, H, W]; uint8 or float32
  torch::Tensor y;  ///< labels [N] int64, 0 <= y < classes, or targets [N, classes] float32
  int64_t classes = 0;
  std::map<std::string, std::string> sha256 = {};  ///< of the decompressed source files, by name
  Split split = Split::Train;
  Normalisation normalisation = {};
  /// [N] int64: place of each sample in the official order, which keys its random draws and
  /// survives subsets. Undefined stands for 0 ... N-1.
  torch::Tensor index = {};

  int64_t size() const { return x.size(0); }
};

/// [N] int64, `dataset.index` or 0 ... N-1.
torch::Tensor sample_index(const Dataset& dataset);

/// What one sample of a data set is.
enum class SampleKind {
  kImage,   ///< [C, H, W]
  kVolume,  ///< [C, S, S, S]
  kPoint,   ///< [C, 1, 1]
};

/// One line of the built-in list.
struct DatasetEntry {
  std::string name;  ///< what a config says, and the folder under the data root
  LabelledImages (*read)(SourceFolder& folder, Split split);
  int64_t classes;  ///< of labels, or numbers of a target
  Normalisation normalisation;
  Checksums sha256 = {};    ///< empty: taken as it is
  bool is_drawn = false;    ///< made by the program: there are no files
  std::string folder = {};  ///< under the data root; empty: that of its name
  SampleKind kind = SampleKind::kImage;
};

const std::vector<DatasetEntry>& builtin_datasets();

/// Classes of a built-in data set, or numbers of its targets; throws UsageError as load_dataset.
int64_t dataset_classes(std::string_view name);

/// Throws UsageError as load_dataset.
SampleKind sample_kind(std::string_view name);

/// Reads `root`/`name`, or the folder its entry names. Files may be plain, .gz or .xz. x is uint8
/// but for points.
///
/// UsageError: a name that is not in the list, a file that is not there (the message says how to
/// get it). IoError: truncated, damaged, a wrong checksum, or a label outside 0 ... classes-1.
/// Cost: MNIST 0.5 s, CIFAR-10 from .xz 10 s, most of it decompression.
Dataset load_dataset(std::string_view name, const std::filesystem::path& root, Split split);

}  // namespace evariste
