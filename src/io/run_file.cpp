#include "io/run_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "core/error.h"

namespace evariste {
namespace {

using Clock = std::chrono::steady_clock;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

std::string joined(const std::map<std::string, std::string>& map) {
  std::string text;
  for (const auto& [name, value] : map)
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", name, value);
  return text;
}

std::map<std::string, Attribute> attributes_of(const Provenance& p) {
  return {{"status", p.status},
          {"seed", p.seed},
          {"git_sha", p.git_sha},
          {"git_dirty", int64_t{p.git_dirty}},
          {"command", p.command},
          {"config", p.config},
          {"config_hash", p.config_hash},
          {"host", p.host},
          {"cpu", p.cpu},
          {"device", p.device},
          {"threads", int64_t{p.threads}},
          {"processes", p.processes},
          {"deterministic", int64_t{p.deterministic}},
          {"compiler", p.compiler},
          {"libraries", joined(p.libraries)},
          {"data_sha256", joined(p.data_sha256)},
          {"start", p.start},
          {"end", p.end},
          {"wall_seconds", p.wall_seconds}};
}

std::string_view group_of(std::string_view path) {
  const auto slash = path.rfind('/');
  return slash == std::string_view::npos ? std::string_view() : path.substr(0, slash);
}

void check_path(std::string_view path) {
  if (path.empty() || path.front() == '/' || path.back() == '/' ||
      path.find("//") != std::string_view::npos)
    throw std::invalid_argument(fmt::format("\"{}\": expected a path such as trace/epoch", path));
}

}  // namespace

RunFile::RunFile(std::filesystem::path path, Provenance provenance, Clock::duration write_every)
    : path_(std::move(path)),
      write_every_(write_every),
      started_(Clock::now()),
      written_(started_) {
  record_.attributes = attributes_of(provenance);
  is_pending_ = true;
}

RunFile::RunFile(RunFile&& other) noexcept
    : path_(std::move(other.path_)),
      record_(std::move(other.record_)),
      write_every_(other.write_every_),
      started_(other.started_),
      written_(other.written_),
      earlier_seconds_(other.earlier_seconds_),
      is_pending_(std::exchange(other.is_pending_, false)) {}

RunFile RunFile::resume(std::filesystem::path path, Provenance provenance,
                        Clock::duration write_every) {
  auto earlier = read_run(path);
  RunFile run(std::move(path), std::move(provenance), write_every);
  const auto start = earlier.attribute("start");
  const auto seconds = earlier.attribute("wall_seconds");
  if (const auto* value = std::get_if<double>(&seconds)) run.earlier_seconds_ = *value;
  for (auto& [name, value] : run.record_.attributes) earlier.attributes[name] = std::move(value);
  earlier.attributes["start"] = start;
  run.record_ = std::move(earlier);
  return run;
}

RunFile::~RunFile() {
  if (!is_pending_) return;
  try {
    flush();
  } catch (const std::exception&) {
    // Another error is on its way, or the caller chose not to ask.
  }
}

RunFile::Dimension RunFile::declare(RunDimension dimension) {
  check_path(dimension.path);
  for (size_t d = 0; d < record_.dimensions.size(); ++d) {
    const auto& known = record_.dimensions[d];
    if (known.path != dimension.path) continue;
    if (known.is_unlimited != dimension.is_unlimited ||
        (!known.is_unlimited && known.values != dimension.values))
      throw UsageError(fmt::format("{}: the dimension {} has other values than this run's",
                                   path_.string(), dimension.path));
    return {d};
  }
  if (record_.find_array(dimension.path) != nullptr)
    throw std::invalid_argument(fmt::format("{} is an array already", dimension.path));
  record_.dimensions.push_back(std::move(dimension));
  is_pending_ = true;
  return {record_.dimensions.size() - 1};
}

RunFile::Dimension RunFile::unlimited(std::string_view path, std::string_view long_name,
                                      std::string_view units) {
  return declare(
      {std::string(path), true, std::vector<double>(), std::string(long_name), std::string(units)});
}

RunFile::Dimension RunFile::labels(std::string_view path, std::vector<std::string> names,
                                   std::string_view long_name) {
  return declare({std::string(path), false, std::move(names), std::string(long_name), ""});
}

RunFile::Dimension RunFile::values(std::string_view path, std::vector<double> values,
                                   std::string_view long_name, std::string_view units) {
  return declare(
      {std::string(path), false, std::move(values), std::string(long_name), std::string(units)});
}

RunFile::Dimension RunFile::values(std::string_view path, std::vector<int64_t> values,
                                   std::string_view long_name, std::string_view units) {
  return declare(
      {std::string(path), false, std::move(values), std::string(long_name), std::string(units)});
}

std::vector<size_t> RunFile::dimensions_of(std::string_view path,
                                           const std::vector<Dimension>& dimensions) const {
  check_path(path);
  if (record_.find_dimension(path) != nullptr)
    throw std::invalid_argument(fmt::format("{} is a dimension already", path));
  std::vector<size_t> indices;
  for (const auto& dimension : dimensions) {
    const auto& found = record_.dimensions.at(dimension.index);
    if (group_of(found.path) != group_of(path))
      throw std::invalid_argument(
          fmt::format("{} and its dimension {} must be in the same group", path, found.path));
    if (found.is_unlimited && !indices.empty())
      throw std::invalid_argument(fmt::format("{}: {} must come first", path, found.path));
    indices.push_back(dimension.index);
  }
  return indices;
}

RunArray* RunFile::find(std::string_view path) {
  return const_cast<RunArray*>(record_.find_array(path));
}

int64_t RunFile::row_size(const RunArray& array) const {
  int64_t size = 1;
  for (size_t d = 1; d < array.dimensions.size(); ++d)
    size *= size_of(record_.dimensions[array.dimensions[d]].values);
  return size;
}

RunFile::Series RunFile::series(std::string_view path, const std::vector<Dimension>& dimensions,
                                std::string_view long_name, std::string_view units) {
  auto indices = dimensions_of(path, dimensions);
  if (indices.empty() || !record_.dimensions[indices[0]].is_unlimited)
    throw std::invalid_argument(
        fmt::format("{}: a series starts with an unlimited dimension", path));
  if (auto* known = find(path)) {
    if (known->dimensions != indices || !std::holds_alternative<std::vector<double>>(known->values))
      throw UsageError(
          fmt::format("{}: {} has other dimensions than in this run", path_.string(), path));
    return {static_cast<size_t>(known - record_.arrays.data())};
  }
  RunArray array{
      std::string(path), std::move(indices), {}, std::string(long_name), std::string(units)};
  const auto rows = size_of(record_.dimensions[array.dimensions[0]].values);
  array.values = std::vector<double>(static_cast<size_t>(rows * row_size(array)), kNaN);
  record_.arrays.push_back(std::move(array));
  is_pending_ = true;
  return {record_.arrays.size() - 1};
}

void RunFile::array(std::string_view path, const std::vector<Dimension>& dimensions, Values values,
                    std::string_view long_name, std::string_view units) {
  RunArray array{std::string(path), dimensions_of(path, dimensions), std::move(values),
                 std::string(long_name), std::string(units)};
  int64_t expected = 1;
  for (const auto d : array.dimensions) {
    if (record_.dimensions[d].is_unlimited)
      throw std::invalid_argument(
          fmt::format("{}: an array over {} would not grow with it, use series", path,
                      record_.dimensions[d].path));
    expected *= size_of(record_.dimensions[d].values);
  }
  if (size_of(array.values) != expected)
    throw std::invalid_argument(
        fmt::format("{}: {} values, expected {}", path, size_of(array.values), expected));
  is_pending_ = true;
  if (auto* known = find(path))
    *known = std::move(array);
  else
    record_.arrays.push_back(std::move(array));
}

void RunFile::append(Dimension unlimited, double value, const std::vector<Row>& rows) {
  // Before the new row: what is on the disk then are whole epochs of every group.
  if (is_pending_ && Clock::now() - written_ >= write_every_) flush();

  auto& dimension = record_.dimensions.at(unlimited.index);
  if (!dimension.is_unlimited)
    throw std::invalid_argument(fmt::format("{} is not unlimited", dimension.path));
  auto& positions = std::get<std::vector<double>>(dimension.values);
  if (!positions.empty() && !(value > positions.back()))
    throw std::invalid_argument(
        fmt::format("{}: {} follows {}", dimension.path, value, positions.back()));
  for (const auto& [series, row] : rows) {
    const auto& array = record_.arrays.at(series.index);
    if (array.dimensions.empty() || array.dimensions[0] != unlimited.index)
      throw std::invalid_argument(fmt::format("{} is not over {}", array.path, dimension.path));
    if (static_cast<int64_t>(row.size()) != row_size(array))
      throw std::invalid_argument(fmt::format("{}: a row of {} values, expected {}", array.path,
                                              row.size(), row_size(array)));
  }

  positions.push_back(value);
  for (size_t i = 0; i < record_.arrays.size(); ++i) {
    auto& array = record_.arrays[i];
    if (array.dimensions.empty() || array.dimensions[0] != unlimited.index) continue;
    auto& values = std::get<std::vector<double>>(array.values);
    const auto given = std::find_if(rows.begin(), rows.end(),
                                    [i](const Row& row) { return row.first.index == i; });
    if (given != rows.end())
      values.insert(values.end(), given->second.begin(), given->second.end());
    else
      values.resize(values.size() + static_cast<size_t>(row_size(array)), kNaN);
  }
  is_pending_ = true;
}

void RunFile::drop_after(Dimension unlimited, double last) {
  auto& positions = std::get<std::vector<double>>(record_.dimensions.at(unlimited.index).values);
  const auto kept = static_cast<size_t>(std::upper_bound(positions.begin(), positions.end(), last) -
                                        positions.begin());
  if (kept == positions.size()) return;
  positions.resize(kept);
  for (auto& array : record_.arrays)
    if (!array.dimensions.empty() && array.dimensions[0] == unlimited.index)
      std::get<std::vector<double>>(array.values)
          .resize(kept * static_cast<size_t>(row_size(array)));
  is_pending_ = true;
}

void RunFile::attribute(const std::string& name, Attribute value) {
  record_.attributes[name] = std::move(value);
  is_pending_ = true;
}

void RunFile::flush() {
  const std::chrono::duration<double> here = Clock::now() - started_;
  record_.attributes["wall_seconds"] = earlier_seconds_ + here.count();
  if (!path_.empty()) write_run(path_, record_);
  written_ = Clock::now();
  is_pending_ = false;
}

void RunFile::finish(const std::map<std::string, Attribute>& attributes) {
  for (const auto& [name, value] : attributes) record_.attributes[name] = value;
  stop("finished");
}

void RunFile::stop(std::string_view status) {
  record_.attributes["status"] = std::string(status);
  record_.attributes["end"] = utc_now();
  flush();
}

}  // namespace evariste
