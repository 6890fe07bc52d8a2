// Weights of a network: fresh ones from named streams, and safetensors files.
#include <cstring>

#include "core/error.h"
#include "core/nearest.h"
#include "io/safetensors.h"
#include "nn/network.h"

namespace evariste {
namespace {

struct DType {
  const char* name;
  torch::ScalarType type;
};
constexpr std::array<DType, 6> kTypes = {{{"F32", torch::kFloat32},
                                          {"F64", torch::kFloat64},
                                          {"F16", torch::kFloat16},
                                          {"BF16", torch::kBFloat16},
                                          {"I64", torch::kInt64},
                                          {"U8", torch::kUInt8}}};

std::map<std::string, Tensor> state(const Network& network) {
  std::map<std::string, Tensor> tensors;
  for (const auto& item : network.named_parameters()) tensors[item.key()] = item.value();
  for (const auto& item : network.named_buffers()) tensors[item.key()] = item.value();
  return tensors;
}

int64_t fan_in_of(const Block& block) { return block.value().size(2); }

}  // namespace

Tensor to_tensor(const SafeTensor& tensor, std::string_view file) {
  for (const auto& type : kTypes) {
    if (tensor.dtype != type.name) continue;
    auto out = torch::empty(tensor.shape, type.type);
    std::memcpy(out.data_ptr(), tensor.bytes.data(), tensor.bytes.size());
    return out;
  }
  throw UsageError(fmt::format("{}: tensor \"{}\" has type {}, expected F32, F64, F16, BF16, I64 or U8",
                               file, tensor.name, tensor.dtype));
}

SafeTensor to_safe_tensor(const std::string& name, const Tensor& tensor) {
  const auto data = tensor.detach().cpu().contiguous();
  for (const auto& type : kTypes) {
    if (data.scalar_type() != type.type) continue;
    SafeTensor out{name, type.name, data.sizes().vec(), {}};
    out.bytes.resize(data.nbytes());
    std::memcpy(out.bytes.data(), data.data_ptr(), data.nbytes());
    return out;
  }
  throw UsageError(fmt::format("tensor \"{}\" has a type that safetensors files do not hold", name));
}

void initialise(Network& network, const Stream& stream, bool he_pathways) {
  torch::NoGradGuard no_grad;
  const auto draw = [&](const std::string& name) {
    return at::make_generator<at::CPUGeneratorImpl>(stream.split(name).key());
  };
  const auto default_weights = [&](Block& block) {
    auto generator = draw(block.name);
    auto weight = block.weight();
    const auto in = block.is_bias ? 0 : fan_in_of(block);
    if (block.is_bias) return;  // with its weight, below
    const double bound = 1 / std::sqrt(static_cast<double>(in));
    weight.copy_(torch::empty(weight.sizes(), torch::kFloat64).uniform_(-bound, bound, generator));
    if (!block.bias) return;
    auto bias_generator = draw(block.bias->name);
    block.bias->weight().copy_(torch::empty(block.bias->weight().sizes(), torch::kFloat64)
                                   .uniform_(-bound, bound, bias_generator));
  };
  std::set<const Block*> pathway_blocks;
  for (const auto& module : network.modules(false)) {
    auto* sum = dynamic_cast<Sum*>(module.get());
    if (sum && he_pathways) sum->visit_blocks([&](Block& b) { pathway_blocks.insert(&b); });
  }
  for (auto* block : named_blocks(network)) {
    // Normalisation and scalar layers keep 1 and 0.
    if (block->value().size(1) * block->value().size(2) == 1 && !pathway_blocks.count(block)) continue;
    if (pathway_blocks.count(block)) {
      if (block->is_bias) {
        block->weight().zero_();
        continue;
      }
      auto generator = draw(block->name);
      const double std = std::sqrt(2.0 / static_cast<double>(fan_in_of(*block)));
      block->weight().copy_(
          torch::empty(block->weight().sizes(), torch::kFloat64).normal_(0, std, generator));
    } else {
      default_weights(*block);
    }
  }
}

double matched_precision(const Block& block) {
  return block.is_bias ? 1.0 : static_cast<double>(fan_in_of(block)) / 2;
}

void load_weights(Network& network, const std::filesystem::path& file) {
  torch::NoGradGuard no_grad;
  auto expected = state(network);
  std::vector<std::string> names;
  for (const auto& [name, tensor] : expected) names.push_back(name);
  std::set<std::string> seen;
  for (const auto& tensor : read_safetensors(file)) {
    const auto found = expected.find(tensor.name);
    if (found == expected.end())
      throw UsageError(fmt::format("{}: {}", file.string(), unknown_name("tensor", tensor.name, names)));
    const auto value = to_tensor(tensor, file.string());
    if (value.sizes() != found->second.sizes())
      throw UsageError(fmt::format("{}: tensor \"{}\": expected {}, found {}", file.string(), tensor.name,
                                   shape_text(found->second.sizes()), shape_text(value.sizes())));
    if (value.is_floating_point() && !at::isfinite(value).all().item<bool>())
      throw UsageError(fmt::format("{}: tensor \"{}\" has NaN or infinite entries", file.string(),
                                   tensor.name));
    found->second.copy_(value);
    seen.insert(tensor.name);
  }
  for (const auto& name : names)
    if (!seen.count(name) && name.find("num_batches_tracked") == std::string::npos)
      throw UsageError(fmt::format("{}: tensor \"{}\" {} is missing", file.string(), name,
                                   shape_text(expected[name].sizes())));
}

void save_weights(const Network& network, const std::filesystem::path& file) {
  std::vector<SafeTensor> tensors;
  for (const auto& [name, tensor] : state(network)) tensors.push_back(to_safe_tensor(name, tensor));
  write_safetensors(file, tensors);
}

}  // namespace evariste
