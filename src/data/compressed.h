// Files that may be compressed: NAME, NAME.gz (zlib) or NAME.xz (liblzma), read whole.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace evariste {

/// The first of `name`, `name`.gz and `name`.xz that is a file; nothing where none is.
std::optional<std::filesystem::path> find_compressed(const std::filesystem::path& name);

/// The bytes of `file`, decompressed where its suffix is .gz or .xz (concatenated members are read
/// through). Throws IoError where the file cannot be read, is truncated or fails its own checksum.
std::string read_decompressed(const std::filesystem::path& file);

}  // namespace evariste
