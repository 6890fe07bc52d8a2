#include "experiments/evidence/stored.h"

#include <fmt/ranges.h>

#include <set>

#include "core/error.h"
#include "io/atomic_file.h"
#include "io/provenance.h"
#include "io/safetensors.h"
#ifdef EVARISTE_HDF5
#include "nn/posterior_file.h"
#endif

namespace evariste {

void expect_hdf5(std::string_view flag) {
#ifndef EVARISTE_HDF5
  throw UsageError(
      fmt::format("{}: this build has no HDF5, configure with -DEVARISTE_HDF5=ON", flag));
#else
  (void)flag;
#endif
}

void write_samples(const std::filesystem::path& weights, const std::filesystem::path& predictions,
                   const EvidenceRequest& request, const EvidenceResult& result,
                   const Stream& root) {
  const auto count = request.options.samples;
  if (!weights.empty()) {
    std::vector<SafeTensor> tensors;
    for (const auto& [name, draws] :
         posterior_samples(result.posterior, count, root.split("samples")))
      tensors.push_back(to_safe_tensor(name, draws));
    write_safetensors(weights, tensors);
  }
  if (predictions.empty()) return;
  const auto& likelihood = *result.posterior.likelihood;
  const auto outputs = output_samples(result.outputs, root.split("predictive"), count);
  std::vector<SafeTensor> tensors = {to_safe_tensor("outputs", outputs)};
  if (!likelihood.is_regression())
    tensors.push_back(to_safe_tensor(
        "probabilities", likelihood.predict(outputs.flatten(0, 1)).view(outputs.sizes())));
  write_safetensors(predictions, tensors);
}

#ifdef EVARISTE_HDF5
namespace {

/// Options that are the posterior's own.
const std::set<std::string_view> kInRecord = {"likelihood", "structure", "temperature", "noise",
                                              "dtype"};
/// Options that say how it was made: notes of the file.
const std::set<std::string_view> kInNotes = {
    "only", "fisher", "mc_samples", "rank_tolerance", "sharing", "correction",
    "bias", "norm",   "positions",  "rank",           "prior"};

Attribute attribute_of(const std::string& value) { return value; }
Attribute attribute_of(double value) { return value; }
Attribute attribute_of(int64_t value) { return value; }
Attribute attribute_of(const std::vector<std::string>& value) {
  return fmt::format("{}", fmt::join(value, " "));
}

void set_from(const Attribute& stored, std::string& value) {
  value = std::get<std::string>(stored);
}
void set_from(const Attribute& stored, double& value) { value = std::get<double>(stored); }
void set_from(const Attribute& stored, int64_t& value) { value = std::get<int64_t>(stored); }
void set_from(const Attribute& stored, std::vector<std::string>& value) {
  value.clear();
  std::istringstream words(std::get<std::string>(stored));
  for (std::string word; words >> word;) value.push_back(word);
}

template <class Value>
constexpr bool kIsStored =
    std::is_same_v<Value, std::string> || std::is_same_v<Value, double> ||
    std::is_same_v<Value, int64_t> || std::is_same_v<Value, std::vector<std::string>>;

/// Visits the options that a file has notes of.
struct ToNotes {
  std::map<std::string, Attribute>& notes;
  template <class Value>
  void operator()(std::string_view key, const Value& value, std::string_view,
                  std::initializer_list<std::string_view> = {}) {
    if constexpr (kIsStored<Value>)
      if (kInNotes.count(key)) notes[std::string(key)] = attribute_of(value);
  }
};

/// Takes an option from the file, unless it was given and differs.
struct Adopt {
  const std::string& path;
  const std::map<std::string, Attribute>& stored;
  const std::set<std::string>& given;
  template <class Value>
  void operator()(std::string_view key, Value& value, std::string_view,
                  std::initializer_list<std::string_view> = {}) {
    if constexpr (kIsStored<Value>) {
      if (!kInNotes.count(key) && !kInRecord.count(key)) return;
      const auto found = stored.find(std::string(key));
      const auto asked = attribute_of(value);
      if (found == stored.end() || found->second.index() != asked.index())
        throw IoError(fmt::format("{}: the attribute \"{}\" is missing", path, key));
      if (given.count(std::string(key)) && asked != found->second)
        std::visit(
            [&](const auto& found_value, const auto& asked_value) {
              const auto made = fmt::format("{}", found_value);
              throw UsageError(fmt::format(
                  "{0} {1}: the posterior in {2} was made with {3}; leave {0} out, or fit with "
                  "--data",
                  flag_name(key), asked_value, path, made.empty() ? "none" : made));
            },
            found->second, asked);
      set_from(found->second, value);
    }
  }
};

double number(const PosteriorFile& file, const std::string& name) {
  const auto found = file.notes.find(name);
  const auto* value = found == file.notes.end() ? nullptr : std::get_if<double>(&found->second);
  return value ? *value : std::numeric_limits<double>::quiet_NaN();
}

int64_t integer(const PosteriorFile& file, const std::string& name) {
  const auto found = file.notes.find(name);
  const auto* value = found == file.notes.end() ? nullptr : std::get_if<int64_t>(&found->second);
  return value ? *value : 0;
}

/// `input` and `layer` of a network file, whatever its comments and other tables.
std::string layers_of(const std::string& text, const std::string& name) {
  const auto file = parse_toml(text, name);
  const auto* table = file["network"].as_table();
  toml::table kept;
  for (const char* key : {"input", "layer"})
    if (const auto* node = (table ? *table : file).get(key)) kept.insert(key, *node);
  return to_text(kept);
}

}  // namespace

StoredRun read_stored(EvidenceRequest& request) {
  auto& options = request.options;
  StoredRun stored;
  stored.path = options.load;
  auto file = read_posterior(stored.path);
  auto facts = file.notes;
  facts["likelihood"] = file.posterior.likelihood;
  facts["structure"] = file.posterior.curvature.structure;
  facts["temperature"] = file.posterior.temperature;
  facts["noise"] = file.posterior.noise;
  facts["dtype"] = file.posterior.dtype;
  options.visit(Adopt{stored.path, facts, request.given});
  stored.network = file.text(stored.path, "network");
  stored.weights = file.text(stored.path, "weights");
  stored.seed = integer(file, "seed");
  if (file.notes.count("newton_decrement")) {
    stored.checks.emplace();
    stored.checks->newton_decrement = number(file, "newton_decrement");
    stored.checks->linearised_gap = number(file, "linearised_gap");
    stored.checks->believable = integer(file, "believable") != 0;
  }
  if (!request.command_line.seed) request.command_line.seed = stored.seed;
  stored.posterior = std::move(file.posterior);
  expect_combination(request);
  return stored;
}

Posterior restore_stored(const StoredRun& stored, const EvidenceOptions& options,
                         EvidenceProblem& problem) {
  auto posterior = restore(stored.posterior, *problem.network, stored.path);
  if (layers_of(read_file(options.network), options.network) !=
      layers_of(stored.network, stored.path))
    throw UsageError(
        fmt::format("{}: the posterior of another network: its layers are not those of {}",
                    stored.path, options.network));
  if (problem.weights_digest != stored.weights)
    throw UsageError(fmt::format("{}: the posterior of other weights than those of {}", stored.path,
                                 options.weights));
  return posterior;
}

void save_result(const std::filesystem::path& path, const EvidenceRequest& request,
                 const EvidenceProblem& problem, const EvidenceResult& result) {
  PosteriorFile file{record_of(result.posterior, result.evidence), {}};
  auto options = request.options;
  options.visit(ToNotes{file.notes});
  file.notes["network"] = read_file(options.network);
  file.notes["weights"] = problem.weights_digest;
  file.notes["seed"] = request.command_line.seed.value_or(0);
  file.notes["program"] = "evidence " + version_text();
  file.notes["command"] = request.command_line.command;
  if (result.checks) {
    file.notes["newton_decrement"] = result.checks->newton_decrement;
    file.notes["linearised_gap"] = result.checks->linearised_gap;
    file.notes["believable"] = int64_t{result.checks->believable};
  }
  write_posterior(path, file);
}
#else
StoredRun read_stored(EvidenceRequest&) {
  expect_hdf5("--load");
  return {};
}
Posterior restore_stored(const StoredRun&, const EvidenceOptions&, EvidenceProblem&) { return {}; }
void save_result(const std::filesystem::path&, const EvidenceRequest&, const EvidenceProblem&,
                 const EvidenceResult&) {}
#endif

}  // namespace evariste
