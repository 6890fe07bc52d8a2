#include "nn/posterior_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <numeric>
#include <set>

#include "core/error.h"
#include "core/sha256.h"
#include "io/atomic_file.h"

namespace evariste {
namespace {

constexpr const char* kFormat = "evariste-posterior";
constexpr int64_t kVersion = 2;
const std::vector<std::string> kEntries = {"group", "output", "input"};

/// Attributes that are not notes.
const std::set<std::string> kOwn = {
    "format",        "version", "structure", "likelihood",   "dtype",      "temperature",
    "noise",         "scale",   "samples",   "count",        "normaliser", "log_likelihood",
    "log_det_ratio", "scatter", "dropped",   "log_evidence", "columns",    "sha256"};

/// SHA-256 of the content: order and layout of the file do not matter.
std::string digest(const RunRecord& record) {
  Sha256 sha;
  const auto text = [&](const std::string& value) {
    sha.update(value.data(), value.size() + 1);  // with its end
  };
  for (const auto& [name, value] : record.attributes) {
    if (name == "sha256") continue;
    text(name);
    if (const auto* words = std::get_if<std::string>(&value)) {
      text(*words);
    } else if (const auto* number = std::get_if<double>(&value)) {
      sha.update(number, sizeof *number);
    } else {
      sha.update(&std::get<int64_t>(value), sizeof(int64_t));
    }
  }
  std::map<std::string, std::pair<std::vector<int64_t>, const Values*>> arrays;
  for (const auto& d : record.dimensions) arrays[d.path] = {{size_of(d.values)}, &d.values};
  for (const auto& array : record.arrays) arrays[array.path] = {record.shape(array), &array.values};
  for (const auto& [path, array] : arrays) {
    text(path);
    sha.update(array.first.data(), array.first.size() * sizeof(int64_t));
    if (const auto* words = std::get_if<std::vector<std::string>>(array.second)) {
      for (const auto& word : *words) text(word);
    } else if (const auto* numbers = std::get_if<std::vector<double>>(array.second)) {
      sha.update(numbers->data(), numbers->size() * sizeof(double));
    } else {
      const auto& integers = std::get<std::vector<int64_t>>(*array.second);
      sha.update(integers.data(), integers.size() * sizeof(int64_t));
    }
  }
  return sha.hex();
}

/// Adds arrays to a record, each with dimensions of its own group.
class Writer {
 public:
  RunRecord record;

  void tensor(const std::string& group, const std::string& name, const Tensor& tensor,
              const std::vector<std::string>& axes, std::string_view meaning) {
    const auto data = tensor.detach().cpu().to(torch::kFloat64).contiguous();
    RunArray array{group + "/" + name, {}, {}, std::string(meaning), ""};
    for (size_t d = 0; d < axes.size(); ++d)
      array.dimensions.push_back(dimension(group, axes[d], data.size(static_cast<int64_t>(d))));
    const auto* values = data.const_data_ptr<double>();
    array.values = std::vector<double>(values, values + data.numel());
    record.arrays.push_back(std::move(array));
  }

  void arrays(const std::string& group, const std::vector<NamedArray>& all) {
    for (const auto& array : all)
      tensor(group, array.name, array.values, array.axes, array.meaning);
  }

 private:
  /// The index of `group/name`, 0, 1, ... of that length; declared where it is not there yet.
  size_t dimension(const std::string& group, const std::string& name, int64_t length) {
    const auto path = group + "/" + name;
    for (size_t d = 0; d < record.dimensions.size(); ++d)
      if (record.dimensions[d].path == path) return d;
    std::vector<int64_t> values(static_cast<size_t>(length));
    std::iota(values.begin(), values.end(), 0);
    record.dimensions.push_back({path, false, values, "", ""});
    return record.dimensions.size() - 1;
  }
};

void add_blocks(Writer& out, const PosteriorRecord& posterior) {
  std::vector<std::string> names, priors;
  std::vector<int64_t> index, parameters, groups, outputs, inputs;
  std::vector<double> precision, effective, trace;
  for (size_t m = 0; m < posterior.blocks.size(); ++m) {
    const auto& block = posterior.blocks[m];
    const auto& evidence = posterior.evidence.blocks[m];
    names.push_back(evidence.name);
    priors.push_back(posterior.priors[block.prior].name);
    index.push_back(static_cast<int64_t>(block.prior));
    parameters.push_back(block.mean.numel());
    groups.push_back(block.mean.size(0));
    outputs.push_back(block.mean.size(1));
    inputs.push_back(block.mean.size(2));
    precision.push_back(evidence.prior_precision);
    effective.push_back(evidence.effective_dimension);
    trace.push_back(posterior.curvature.trace_ratios[m]);
  }
  const auto block = out.record.dimensions.size();
  out.record.dimensions.push_back({"blocks/block", false, names, "block", ""});
  const auto add = [&](const char* name, Values values, const char* long_name) {
    out.record.arrays.push_back(
        {std::string("blocks/") + name, {block}, std::move(values), long_name, ""});
  };
  add("parameters", parameters, "number of parameters");
  add("groups", groups, "groups Q of a block-diagonal map");
  add("outputs", outputs, "fan out O");
  add("inputs", inputs, "fan in J");
  add("prior", priors, "prior over the weights");
  add("prior_index", index, "its place in /priors");
  add("prior_precision", precision, "prior precision, mean over entries");
  add("effective_dimension", effective, "effective dimension");
  add("trace_ratio", trace, "tr KFAC / tr F before the correction");
}

std::vector<std::string> axes_of(const Tensor& tensor) {
  if (tensor.dim() == 3) return kEntries;
  std::vector<std::string> axes;
  for (int64_t d = 0; d < tensor.dim(); ++d) axes.push_back(fmt::format("axis_{}", d));
  return axes;
}

void add_priors(Writer& out, const PosteriorRecord& posterior) {
  for (size_t k = 0; k < posterior.priors.size(); ++k) {
    const auto group = fmt::format("priors/{}", k);
    const auto& prior = posterior.priors[k];
    for (const auto& [name, tensor] : prior.hyperparameters)
      out.tensor(group, name, tensor, axes_of(tensor), "hyper-parameter of the prior");
    for (const auto& [name, value] : prior.constants)
      out.tensor(group, name, torch::tensor(value, torch::kFloat64), {}, "constant of the prior");
  }
}

void add_weights(Writer& out, const PosteriorRecord& posterior) {
  for (size_t m = 0; m < posterior.blocks.size(); ++m) {
    const auto& block = posterior.blocks[m];
    const auto group = "weights/" + posterior.evidence.blocks[m].name;
    out.tensor(group, "mean", block.mean, kEntries, "posterior mean");
    for (const auto& [name, tensor] : posterior.priors[block.prior].hyperparameters)
      if (name == "log_precision" && tensor.dim() == 3)
        out.tensor(group, "prior_precision", tensor.exp(), kEntries, "prior precision");
  }
}

/// What a record holds, with errors that name the file.
class Reader {
 public:
  Reader(const std::filesystem::path& path, const RunRecord& record)
      : path_(path.string()), record_(record) {}

  template <class Value>
  Value attribute(const std::string& name) const {
    const auto found = record_.attributes.find(name);
    if (found != record_.attributes.end())
      if (const auto* value = std::get_if<Value>(&found->second)) return *value;
    fail(fmt::format("the attribute \"{}\" is missing", name));
  }

  template <class Value>
  const std::vector<Value>& values(const std::string& name) const {
    const auto* array = record_.find_array(name);
    const auto* dimension = record_.find_dimension(name);
    if (array)
      if (const auto* found = std::get_if<std::vector<Value>>(&array->values)) return *found;
    if (dimension)
      if (const auto* found = std::get_if<std::vector<Value>>(&dimension->values)) return *found;
    fail(fmt::format("the array \"{}\" is missing", name));
  }

  Tensor tensor(const RunArray& array) const {
    const auto* values = std::get_if<std::vector<double>>(&array.values);
    if (!values) fail(fmt::format("the array \"{}\" holds no numbers", array.path));
    return torch::tensor(*values, torch::kFloat64).view(record_.shape(array));
  }

  Tensor tensor(const std::string& name) const {
    const auto* array = record_.find_array(name);
    if (!array) fail(fmt::format("the array \"{}\" is missing", name));
    return tensor(*array);
  }

  /// The arrays right in a group.
  std::vector<NamedArray> group(const std::string& name) const {
    std::vector<NamedArray> out;
    for (const auto& array : record_.arrays)
      if (array.path.starts_with(name + "/") &&
          array.path.find('/', name.size() + 1) == std::string::npos)
        out.push_back({array.path.substr(name.size() + 1), tensor(array), {}, array.long_name});
    return out;
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw IoError(fmt::format("{}: damaged or no posterior: {}", path_, what));
  }

 private:
  std::string path_;
  const RunRecord& record_;
};

void expect_readable(const std::filesystem::path& path, const RunRecord& record) {
  const auto format = record.attributes.find("format");
  if (format == record.attributes.end() || format->second != Attribute(std::string(kFormat)))
    throw UsageError(
        fmt::format("{}: no posterior: expected the format {}", path.string(), kFormat));
  const Reader reader(path, record);
  const auto version = reader.attribute<int64_t>("version");
  if (version != kVersion)
    throw UsageError(fmt::format("{}: a posterior of version {}, expected {}: {}", path.string(),
                                 version, kVersion,
                                 version > kVersion ? "use a newer evariste" : "save it again"));
  if (reader.attribute<std::string>("sha256") != digest(record))
    reader.fail("its content is not what was written (checksum)");
}

}  // namespace

const std::string& PosteriorFile::text(const std::filesystem::path& path,
                                       const std::string& name) const {
  const auto found = notes.find(name);
  if (found != notes.end())
    if (const auto* value = std::get_if<std::string>(&found->second)) return *value;
  throw IoError(fmt::format("{}: the attribute \"{}\" is missing", path.string(), name));
}

namespace {

constexpr std::string_view kSeal = "\nevariste-sha256 ";
constexpr size_t kSealBytes = kSeal.size() + 64;

std::string seal_of(std::ifstream& in, uint64_t bytes) {
  Sha256 sum;
  std::vector<char> part(1 << 20);
  for (uint64_t left = bytes; left > 0;) {
    const auto count = std::min<uint64_t>(left, part.size());
    in.read(part.data(), static_cast<std::streamsize>(count));
    if (!in) break;
    sum.update(part.data(), count);
    left -= count;
  }
  return std::string(kSeal) + sum.hex();
}

/// Adds the checksum of the bytes behind them, where HDF5 does not look.
void seal(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  const auto text = seal_of(in, std::filesystem::file_size(path));
  std::ofstream out(path, std::ios::binary | std::ios::app);
  out << text << std::flush;
  if (!in || !out) throw IoError(fmt::format("{}: could not be written", path.string()));
}

/// Damage is found before HDF5 follows an address that it changed, which ends the process. Files
/// without a seal have been through other hands: `expect_readable` judges what they hold.
void expect_seal(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::error_code none;
  const auto size = std::filesystem::file_size(path, none);
  if (!in || none || size < kSealBytes) return;
  std::string found(kSealBytes, '\0');
  in.seekg(static_cast<std::streamoff>(size - kSealBytes));
  in.read(found.data(), static_cast<std::streamsize>(kSealBytes));
  if (!in || !found.starts_with(kSeal)) return;
  in.seekg(0);
  if (seal_of(in, size - kSealBytes) != found)
    throw IoError(
        fmt::format("{}: damaged or no posterior: its bytes are not those that were "
                    "written (checksum)",
                    path.string()));
}

}  // namespace

void write_posterior(const std::filesystem::path& path, const PosteriorFile& file) {
  const auto& p = file.posterior;
  const auto& e = p.evidence;
  Writer out;
  out.record.attributes = file.notes;
  const double scale = 1 / (p.noise * p.noise * p.temperature);
  for (const auto& [name, value] :
       std::map<std::string, Attribute>{{"format", std::string(kFormat)},
                                        {"version", kVersion},
                                        {"structure", p.curvature.structure},
                                        {"likelihood", p.likelihood},
                                        {"dtype", p.dtype},
                                        {"temperature", p.temperature},
                                        {"noise", p.noise},
                                        {"scale", scale},
                                        {"samples", p.curvature.samples},
                                        {"count", p.count},
                                        {"log_likelihood", e.log_likelihood},
                                        {"normaliser", p.normaliser},
                                        {"log_det_ratio", e.log_det_ratio},
                                        {"scatter", e.scatter},
                                        {"log_evidence", e.log_evidence},
                                        {"dropped", p.dropped},
                                        {"columns", p.columns}})
    out.record.attributes[name] = value;
  add_blocks(out, p);
  add_priors(out, p);
  add_weights(out, p);
  out.arrays("curvature", p.curvature.whole);
  for (size_t m = 0; m < p.blocks.size(); ++m)
    out.arrays("curvature/" + e.blocks[m].name, p.curvature.blocks[m]);
  out.record.attributes["sha256"] = digest(out.record);
  write_atomically(path, [&](const std::filesystem::path& temporary) {
    write_run(temporary, out.record);
    seal(temporary);
  });
}

PosteriorFile read_posterior(const std::filesystem::path& path) {
  expect_seal(path);
  const auto record = read_run(path, "posterior");
  expect_readable(path, record);
  const Reader in(path, record);
  PosteriorFile file;
  auto& p = file.posterior;
  p.curvature.structure = in.attribute<std::string>("structure");
  p.curvature.samples = in.attribute<int64_t>("samples");
  p.likelihood = in.attribute<std::string>("likelihood");
  p.dtype = in.attribute<std::string>("dtype");
  p.noise = in.attribute<double>("noise"), p.temperature = in.attribute<double>("temperature");
  p.count = in.attribute<int64_t>("count");
  p.normaliser = in.attribute<double>("normaliser");
  p.dropped = in.attribute<double>("dropped"), p.columns = in.attribute<double>("columns");
  auto& e = p.evidence;
  e.n = p.curvature.samples;
  e.log_likelihood = in.attribute<double>("log_likelihood");
  e.log_det_ratio = in.attribute<double>("log_det_ratio");
  e.scatter = in.attribute<double>("scatter");
  e.log_evidence = in.attribute<double>("log_evidence");

  const auto& names = in.values<std::string>("blocks/block");
  const auto& priors = in.values<std::string>("blocks/prior");
  const auto& index = in.values<int64_t>("blocks/prior_index");
  p.curvature.trace_ratios = in.values<double>("blocks/trace_ratio");
  p.curvature.whole = in.group("curvature");
  for (size_t m = 0; m < names.size(); ++m) {
    e.blocks.emplace_back().name = names[m];
    const auto prior = static_cast<size_t>(index[m]);
    p.blocks.push_back({in.tensor("weights/" + names[m] + "/mean"), prior});
    p.curvature.blocks.push_back(in.group("curvature/" + names[m]));
    if (prior != p.priors.size()) continue;  // shared with an earlier block
    auto& entry = p.priors.emplace_back();
    entry.name = priors[m];
    for (const auto& array : in.group(fmt::format("priors/{}", prior))) {
      entry.hyperparameters.emplace_back(array.name, array.values);
      if (array.values.dim() == 0) entry.constants[array.name] = array.values.item<double>();
    }
  }
  for (const auto& [name, value] : record.attributes)
    if (!kOwn.count(name)) file.notes[name] = value;
  return file;
}

void save_posterior(const std::filesystem::path& path, const Posterior& posterior) {
  write_posterior(path, {record_of(posterior, posterior.evidence()), {}});
}

Posterior load_posterior(const std::filesystem::path& path, Layer& network,
                         const std::map<std::string_view, BuiltinPrior>& known) {
  return restore(read_posterior(path).posterior, network, path.string(), known);
}

}  // namespace evariste
