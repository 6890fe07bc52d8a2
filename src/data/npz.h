// Arrays of a NumPy .npz file: a zip archive of .npy members, stored or deflated.
//
// Zip as of PKWARE's APPNOTE 6.3: the central directory at the end names the members, their sizes
// and CRC-32; archives of several disks, encrypted ones and members of 4 GB are refused. Format
// .npy 1 to 3: magic, version, length of a header that is a Python dict, then the entries in C
// order.
#pragma once

#include <torch/types.h>

#include <string>
#include <string_view>

namespace evariste {

/// Member `name` (without .npy) of an archive: uint8 or int64 ("|u1", "<u1", "<i8"). `source` names
/// the file in messages. Throws IoError where the archive is truncated or damaged, has no such
/// member, or the member another type or order.
torch::Tensor parse_npz(std::string_view bytes, const std::string& name, const std::string& source);

}  // namespace evariste
