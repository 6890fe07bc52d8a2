#include "layerwise/prune.h"

#include <fmt/ranges.h>

#include "io/atomic_file.h"
#include "io/config.h"
#include "io/safetensors.h"
#include "nn/network.h"

namespace evariste {
namespace {

constexpr double kNothing = 0.01;  // of an effective dimension

/// "0.1.weight" -> "0.1."
std::string path_prefix(const std::string& block) {
  return block.substr(0, block.find('.', block.find('.') + 1) + 1);
}

double effective_dimension(const Result& result, const std::string& prefix) {
  double sum = 0;
  for (const auto& block : result.blocks)
    if (block.name.starts_with(prefix)) sum += block.effective;
  return sum;
}

int64_t count_parameters(const Network& network) {
  int64_t count = 0;
  for (const auto& p : network.parameters()) count += p.numel();
  return count;
}

}  // namespace

Pruned prune_run(const std::filesystem::path& folder, const Result& evidence, const Tensor& x) {
  torch::NoGradGuard no_grad;
  Pruned out;
  auto table = parse_toml_file(folder / "network.toml");
  auto& layers = *table["layer"].as_array();
  std::map<std::string, std::string> renamed;  // prefix of a pathway -> its new one, or ""
  for (size_t l = 0; l < evidence.layers.size(); ++l) {
    const auto& blocks = evidence.path_blocks[l];
    std::vector<double> effective;
    for (const auto& block : blocks)
      effective.push_back(effective_dimension(evidence, path_prefix(block)));
    const auto largest = std::max_element(effective.begin(), effective.end()) - effective.begin();
    auto& sum = *layers[std::stoul(evidence.layers[l])].as_table();
    const auto& paths = *sum["of"].as_array();
    toml::array kept;
    for (size_t k = 0; k < blocks.size(); ++k) {
      const auto prefix = path_prefix(blocks[k]);
      if (effective[k] < kNothing && static_cast<std::ptrdiff_t>(k) != largest) {
        out.removed.push_back(prefix.substr(0, prefix.size() - 1));
        renamed[prefix] = "";
        continue;
      }
      renamed[prefix] = fmt::format("{}.{}.", evidence.layers[l], kept.size());
      paths[k].visit([&](const auto& path) { kept.push_back(path); });
    }
    if (!sum.contains("scale")) sum.insert("scale", 1.0 / static_cast<double>(blocks.size()));
    sum.insert_or_assign("of", std::move(kept));
  }

  std::vector<SafeTensor> tensors;
  for (auto& tensor : read_safetensors(folder / "weights.safetensors")) {
    const auto found = renamed.find(path_prefix(tensor.name));
    if (found != renamed.end()) {
      if (found->second.empty()) continue;
      tensor.name = found->second + tensor.name.substr(found->first.size());
    }
    tensors.push_back(std::move(tensor));
  }
  write_atomically(folder / "network-pruned.toml", to_text(table));
  write_safetensors(folder / "weights-pruned.safetensors", tensors);

  const auto outputs = [&](const char* suffix, int64_t& parameters) {
    const auto network = load_network(folder / fmt::format("network{}.toml", suffix));
    load_weights(*network, folder / fmt::format("weights{}.safetensors", suffix));
    network->eval();
    parameters = count_parameters(*network);
    return network->forward(x);
  };
  const auto before = outputs("", out.parameters_before),
             after = outputs("-pruned", out.parameters);
  out.difference = ((after - before).abs().max() / before.abs().max()).item<double>();
  return out;
}

std::string pruned_text(const Pruned& pruned, const std::filesystem::path& folder) {
  return fmt::format(
      "pruned     {}: {} of {} parameters stay{}, outputs change by {:.1e} of the largest",
      (folder / "network-pruned.toml").string(), pruned.parameters, pruned.parameters_before,
      pruned.removed.empty() ? std::string()
                             : fmt::format(" without {}", fmt::join(pruned.removed, ", ")),
      pruned.difference);
}

}  // namespace evariste
