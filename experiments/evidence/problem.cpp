#include "experiments/evidence/problem.h"

#include <map>
#include <set>

#include "core/error.h"
#include "core/nearest.h"
#include "io/safetensors.h"
#include "nn/averaged.h"

namespace evariste {
namespace {

std::map<std::string, Tensor> read_tensors(const std::filesystem::path& file) {
  std::map<std::string, Tensor> tensors;
  for (const auto& tensor : read_safetensors(file)) {
    if (tensor.name != "x" && tensor.name != "y")
      throw UsageError(
          fmt::format("{}: {}", file.string(), unknown_name("tensor", tensor.name, {"x", "y"})));
    tensors[tensor.name] = to_tensor(tensor, file.string());
  }
  for (const char* name : {"x", "y"})
    if (!tensors.count(name))
      throw UsageError(fmt::format("{}: tensor \"{}\" is missing; a data file holds x and y",
                                   file.string(), name));
  return tensors;
}

void expect_finite_inputs(const Tensor& tensor, std::string_view name,
                          const std::filesystem::path& file) {
  const auto bad = tensor.numel() - at::isfinite(tensor).sum().item<int64_t>();
  if (bad > 0)
    throw UsageError(fmt::format("{}: tensor \"{}\" has {} NaN or infinite entries of {}",
                                 file.string(), name, bad, tensor.numel()));
}

}  // namespace

Samples load_samples(const std::filesystem::path& file, const Network& network,
                     const Likelihood& likelihood, torch::ScalarType type) {
  auto tensors = read_tensors(file);
  auto &x = tensors["x"], &y = tensors["y"];
  auto expected = network.input();
  if (!x.is_floating_point())
    throw UsageError(fmt::format("{}: tensor \"x\": expected floating point numbers, found {}",
                                 file.string(), toString(x.scalar_type())));
  const auto shape = x.sizes();
  const bool is_plain = x.dim() > 0 && shape.slice(1) == at::IntArrayRef(expected);
  const bool has_copies =
      x.dim() > 1 && shape[1] > 0 && shape.slice(2) == at::IntArrayRef(expected);
  if (!is_plain && !has_copies)
    throw UsageError(
        fmt::format("{0}: tensor \"x\": expected [N, {1}], the network's input, or [N, K, {1}] "
                    "with K copies of "
                    "each sample, found {2}",
                    file.string(), fmt::join(expected, ", "), shape_text(shape)));
  if (x.size(0) == 0)
    throw UsageError(fmt::format("{}: there are no samples in it", file.string()));
  if (y.dim() < 1 || y.size(0) != x.size(0))
    throw UsageError(
        fmt::format("{}: tensor \"y\": expected {} labels, one for each row of x {}, "
                    "found {}",
                    file.string(), x.size(0), shape_text(x.sizes()), shape_text(y.sizes())));
  x = x.to(type);
  if (y.is_floating_point()) {
    y = y.to(type);
    expect_finite_inputs(y, "y", file);
  }
  expect_finite_inputs(x, "x", file);
  try {
    likelihood.check_labels(y, network.outputs());
  } catch (const UsageError& error) {
    throw UsageError(fmt::format("{}: tensor \"y\": {}", file.string(), error.what()));
  }
  return {x, y, 0};
}

EvidenceProblem load_problem(const EvidenceOptions& options, torch::Device device) {
  EvidenceProblem problem;
  const auto type = scalar_type(options);
  problem.network = load_network(options.network);
  problem.network->to(type);  // first, so that float64 weights are not rounded on their way
  if (named_blocks(*problem.network).empty())
    throw UsageError(fmt::format("{}: the network has no parameters", options.network));
  load_weights(*problem.network, options.weights);
  problem.weights_digest = weights_digest(*problem.network);
  problem.network->to(device);
  const auto likelihood = make_likelihood(options.likelihood, options.noise);
  std::set<int64_t> dimensions;  // of x
  const auto load = [&](const std::string& file) {
    auto samples = load_samples(file, *problem.network, *likelihood, type);
    dimensions.insert(samples.x.dim());
    samples.x = samples.x.to(device), samples.y = samples.y.to(device);
    return samples;
  };
  if (!options.data.empty()) problem.train = load(options.data);
  if (!options.test.empty()) problem.test = load(options.test);
  if (!options.validation.empty()) problem.validation = load(options.validation);
  if (dimensions.size() > 1)
    throw UsageError(
        "tensor \"x\" has copies of each sample in one of the files --data, --test and "
        "--validation, but not in another: outputs are averaged over copies in all or in none");
  const auto plain = static_cast<int64_t>(problem.network->input().size()) + 1;
  if (!dimensions.empty() && *dimensions.begin() > plain)
    problem.network = std::make_shared<AveragedNetwork>(*problem.network);
  return problem;
}

}  // namespace evariste
