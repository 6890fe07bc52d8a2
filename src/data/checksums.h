// SHA-256 of the decompressed official files; data/SHA256SUMS holds the same numbers.
#pragma once

#include "data/source_folder.h"

namespace evariste {

const Checksums& mnist_checksums();
const Checksums& fashion_mnist_checksums();
const Checksums& cifar10_checksums();

}  // namespace evariste
