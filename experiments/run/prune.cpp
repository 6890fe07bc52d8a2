#include "experiments/run/prune.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <map>

#include "experiments/run/config.h"
#include "io/atomic_file.h"
#include "io/config.h"
#include "io/safetensors.h"
#include "nn/network.h"

namespace evariste {
namespace {

constexpr double kNothing = 0.01;  // of an effective dimension

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

/// In the state_dict, of the first layer of pathway `name`.
std::string first_name(const toml::node& path, const std::string& name) {
  return path.is_array() ? name + ".0" : name;
}

/// "0.0.", "0.1.0.0.": of the pathways of sum `name`, in the order of pathway_layers.
std::vector<std::string> path_prefixes(toml::table& sum, const std::string& name) {
  std::vector<std::string> out;
  auto& paths = *sum["of"].as_array();
  for (size_t k = 0; k < paths.size(); ++k) {
    const auto path_name = fmt::format("{}.{}", name, k);
    if (auto* inner = inner_sum(paths[k])) {
      const auto more = path_prefixes(*inner, first_name(paths[k], path_name));
      out.insert(out.end(), more.begin(), more.end());
    } else {
      out.push_back(path_name + ".");
    }
  }
  return out;
}

/// Leaves out those that do not stay, and notes the new prefixes of the others; "" of those gone.
void keep_paths(toml::table& sum, const std::string& name, const std::string& new_name,
                const std::function<bool(const std::string&)>& stays,
                std::map<std::string, std::string>& renamed) {
  toml::array kept;
  auto& paths = *sum["of"].as_array();
  for (size_t k = 0; k < paths.size(); ++k) {
    const auto from = fmt::format("{}.{}", name, k);
    const auto to = fmt::format("{}.{}", new_name, kept.size());
    bool is_kept = true;
    if (auto* inner = inner_sum(paths[k])) {
      keep_paths(*inner, first_name(paths[k], from), first_name(paths[k], to), stays, renamed);
      is_kept = !(*inner)["of"].as_array()->empty();
    } else {
      is_kept = stays(from + ".");
      renamed[from + "."] = is_kept ? to + "." : "";
    }
    if (is_kept) paths[k].visit([&](const auto& path) { kept.push_back(path); });
  }
  sum.insert_or_assign("of", std::move(kept));
}

}  // namespace

Pruned prune_run(const std::filesystem::path& folder, const Result& evidence, const Tensor& x) {
  torch::NoGradGuard no_grad;
  Pruned out;
  auto table = parse_toml_file(folder / "network.toml");
  auto& layers = *table["layer"].as_array();
  std::map<std::string, std::string> renamed;  // prefix of a pathway -> its new one, or ""
  for (size_t l = 0; l < evidence.layers.size(); ++l) {
    auto& sum = *layers[std::stoul(evidence.layers[l])].as_table();
    const auto prefixes = path_prefixes(sum, evidence.layers[l]);
    std::map<std::string, double> effective;
    std::string largest;
    for (const auto& prefix : prefixes) {
      effective[prefix] = effective_dimension(evidence, prefix);
      if (largest.empty() || effective[prefix] > effective[largest]) largest = prefix;
    }
    const auto stays = [&](const std::string& prefix) {
      return prefix == largest || effective[prefix] >= kNothing;
    };
    for (const auto& prefix : prefixes)
      if (!stays(prefix)) out.removed.push_back(prefix.substr(0, prefix.size() - 1));
    if (!sum.contains("scale")) sum.insert("scale", 1.0 / static_cast<double>(prefixes.size()));
    keep_paths(sum, evidence.layers[l], evidence.layers[l], stays, renamed);
  }

  std::vector<SafeTensor> tensors;
  for (auto& tensor : read_safetensors(folder / "weights.safetensors")) {
    const auto found = std::find_if(renamed.begin(), renamed.end(), [&](const auto& path) {
      return tensor.name.starts_with(path.first);
    });
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
