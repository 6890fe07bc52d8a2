#include "io/run_record.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/nearest.h"

namespace evariste {
namespace {

template <class Items>
auto* find_path(const Items& items, std::string_view path) {
  const auto it =
      std::find_if(items.begin(), items.end(), [&](const auto& item) { return item.path == path; });
  return it == items.end() ? nullptr : &*it;
}

}  // namespace

int64_t size_of(const Values& values) {
  return std::visit([](const auto& v) { return static_cast<int64_t>(v.size()); }, values);
}

const RunDimension* RunRecord::find_dimension(std::string_view path) const {
  return find_path(dimensions, path);
}

const RunArray* RunRecord::find_array(std::string_view path) const {
  return find_path(arrays, path);
}

std::vector<int64_t> RunRecord::shape(const RunArray& array) const {
  std::vector<int64_t> lengths;
  for (const auto d : array.dimensions) lengths.push_back(size_of(dimensions.at(d).values));
  return lengths;
}

const Values& RunRecord::values(std::string_view path) const {
  if (const auto* array = find_array(path)) return array->values;
  if (const auto* dimension = find_dimension(path)) return dimension->values;
  std::vector<std::string> known;
  for (const auto& array : arrays) known.push_back(array.path);
  for (const auto& dimension : dimensions) known.push_back(dimension.path);
  throw UsageError(unknown_name("array", path, known));
}

const std::vector<double>& RunRecord::numbers(std::string_view path) const {
  if (const auto* found = std::get_if<std::vector<double>>(&values(path))) return *found;
  throw UsageError(fmt::format("array \"{}\" does not hold floating-point numbers", path));
}

const std::vector<std::string>& RunRecord::strings(std::string_view path) const {
  if (const auto* found = std::get_if<std::vector<std::string>>(&values(path))) return *found;
  throw UsageError(fmt::format("array \"{}\" does not hold strings", path));
}

const Attribute& RunRecord::attribute(std::string_view name) const {
  const auto it = attributes.find(std::string(name));
  if (it != attributes.end()) return it->second;
  std::vector<std::string> known;
  for (const auto& [key, value] : attributes) known.push_back(key);
  throw UsageError(unknown_name("attribute", name, known));
}

bool is_finished_run(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return false;
  const auto record = read_run(path);
  const auto status = record.attributes.find("status");
  return status != record.attributes.end() && status->second == Attribute("finished");
}

}  // namespace evariste
