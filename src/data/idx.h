// The IDX format of the MNIST family (LeCun, Cortes and Burges).
//
// Big-endian uint32: magic 0x00000803 (images) or 0x00000801 (labels), count N, for images rows and
// columns; then N rows columns, or N, bytes. The sizes come from the header, never from a constant.
#pragma once

#include <string>
#include <string_view>

#include "data/labelled_images.h"
#include "data/source_folder.h"

namespace evariste {

/// -> [N, 1, rows, columns] uint8. `source` names the file in messages. Throws IoError on a wrong
/// magic number, on fewer or more bytes than the header announces, and on an empty set.
torch::Tensor parse_idx_images(std::string_view bytes, const std::string& source);

/// -> [N] int64. Throws as above.
torch::Tensor parse_idx_labels(std::string_view bytes, const std::string& source);

/// The four official files: train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-...
LabelledImages read_idx_split(SourceFolder& folder, Split split);

}  // namespace evariste
