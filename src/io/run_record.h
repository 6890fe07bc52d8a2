// The content of a run file in memory, and its HDF5 form.
//
// HDF5 layout, made for `xarray.open_dataset(f, group=g, engine="h5netcdf")`: every dimension is a
// dimension scale in the same group as the arrays over it, attached to each of them; trace arrays
// are chunked, shuffled and deflated; strings are of variable length in UTF-8; creation order is
// tracked; arrays carry `long_name` and `units`.
//
// Both directions go through memory, so that no reader is disturbed by HDF5's file locks and errors
// of the disk are those of one plain write. Cost: twice the file's size in memory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace evariste {

using Attribute = std::variant<std::string, double, int64_t>;
using Values = std::variant<std::vector<double>, std::vector<int64_t>, std::vector<std::string>>;

/// Number of values held.
int64_t size_of(const Values& values);

/// A named axis with a value at each position.
struct RunDimension {
  std::string path;  ///< `blocks/block`: the group, then the name xarray sees
  bool is_unlimited = false;
  Values values;
  std::string long_name, units;
};

/// An array over dimensions of its own group, row-major. An unlimited dimension comes first.
struct RunArray {
  std::string path;
  std::vector<size_t> dimensions;  ///< indices into RunRecord::dimensions; empty: a scalar
  Values values;
  std::string long_name, units;
};

struct RunRecord {
  std::map<std::string, Attribute> attributes;  ///< of the root
  std::vector<RunDimension> dimensions;
  std::vector<RunArray> arrays;

  /// Null where there is none of that path.
  const RunDimension* find_dimension(std::string_view path) const;
  const RunArray* find_array(std::string_view path) const;
  /// The lengths of an array's dimensions.
  std::vector<int64_t> shape(const RunArray& array) const;

  /// The values of an array or a dimension; throw UsageError naming the path (and the nearest)
  /// where there is none, or it holds something else.
  const Values& values(std::string_view path) const;
  const std::vector<double>& numbers(std::string_view path) const;
  const std::vector<std::string>& strings(std::string_view path) const;
  const Attribute& attribute(std::string_view name) const;
};

/// Replaces the file whole (atomic_file.h). Throws IoError.
void write_run(const std::filesystem::path& path, const RunRecord& record);

/// Throws UsageError where there is no file, IoError where it is damaged, truncated or no HDF5
/// file; `kind` says in the message what was expected.
RunRecord read_run(const std::filesystem::path& path, std::string_view kind = "run file");

/// Whether `path` is there and its status is "finished". Throws IoError where it is damaged.
bool is_finished_run(const std::filesystem::path& path);

}  // namespace evariste
