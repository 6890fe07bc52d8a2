#include "experiments/evidence/problem.h"

#include <map>

#include "core/error.h"
#include "core/nearest.h"
#include "io/safetensors.h"

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
  if (x.dim() < 1 || x.sizes().slice(1) != at::IntArrayRef(expected))
    throw UsageError(
        fmt::format("{}: tensor \"x\": expected [N, {}], the network's input, found {}",
                    file.string(), fmt::join(expected, ", "), shape_text(x.sizes())));
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

EvidenceProblem load_problem(const EvidenceOptions& options) {
  EvidenceProblem problem;
  const auto type = scalar_type(options);
  problem.network = load_network(options.network);
  problem.network->to(type);  // first, so that float64 weights are not rounded on their way
  if (named_blocks(*problem.network).empty())
    throw UsageError(fmt::format("{}: the network has no parameters", options.network));
  load_weights(*problem.network, options.weights);
  problem.weights_digest = weights_digest(*problem.network);
  const auto likelihood = make_likelihood(options.likelihood, options.noise);
  const auto load = [&](const std::string& file) {
    return load_samples(file, *problem.network, *likelihood, type);
  };
  if (!options.data.empty()) problem.train = load(options.data);
  if (!options.test.empty()) problem.test = load(options.test);
  if (!options.validation.empty()) problem.validation = load(options.validation);
  return problem;
}

}  // namespace evariste
