// The safetensors format (Hugging Face): 8 bytes little-endian length of a JSON header, the header
// {name: {dtype, shape, data_offsets}}, then the raw row-major little-endian data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace evariste {

struct SafeTensor {
  std::string name;
  std::string dtype;  ///< BOOL U8 I8 F8_E5M2 F8_E4M3 I16 U16 F16 BF16 I32 U32 F32 I64 U64 F64
  std::vector<int64_t> shape;    ///< empty: a scalar
  std::vector<std::byte> bytes;  ///< row-major, little-endian
};

/// Bytes of one element. Throws UsageError where the dtype is not known.
int64_t safetensors_dtype_bytes(std::string_view dtype);

/// All tensors, in the order of their data. Throws UsageError where there is no such file, IoError
/// where it is truncated or malformed: header beyond the file, bad JSON, unknown dtype, byte counts
/// that contradict the shape, offsets that overlap or leave holes.
std::vector<SafeTensor> read_safetensors(const std::filesystem::path& path);

/// The `__metadata__` of a file; empty where it has none. Same errors.
std::map<std::string, std::string> read_safetensors_metadata(const std::filesystem::path& path);

/// Replaces the file whole (atomic_file.h). Tensors of wider elements come first, so that each is
/// aligned; the header is padded to 8 bytes. Throws UsageError for an unknown dtype, a name that
/// comes twice, or bytes that contradict the shape; IoError where it cannot be written.
void write_safetensors(const std::filesystem::path& path, const std::vector<SafeTensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace evariste
