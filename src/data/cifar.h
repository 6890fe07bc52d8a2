// The binary version of CIFAR-10 (Krizhevsky 2009).
//
// A file is a run of records of 3073 bytes: one label, then 1024 red, 1024 green and 1024 blue
// pixels, each plane 32 x 32 row by row. The number of records comes from the length of the file.
#pragma once

#include <string>
#include <string_view>

#include "data/labelled_images.h"
#include "data/source_folder.h"

namespace evariste {

/// -> x [N, 3, 32, 32] uint8, y [N] int64. `source` names the file in messages. Throws IoError
/// where the length is not a positive multiple of 3073.
LabelledImages parse_cifar(std::string_view bytes, const std::string& source);

/// Train: those of data_batch_1.bin ... data_batch_5.bin that are there, in this order; test:
/// test_batch.bin.
LabelledImages read_cifar_split(SourceFolder& folder, Split split);

}  // namespace evariste
