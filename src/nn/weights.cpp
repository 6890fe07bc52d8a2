// Weights of a network: fresh ones from named streams, and safetensors files.
#include <cstring>

#include "core/error.h"
#include "core/nearest.h"
#include "core/sha256.h"
#include "io/safetensors.h"
#include "nn/affine.h"
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

double fan_in_of(const Block& block) {
  return static_cast<double>(block.value().size(2)) * block.feature_power;
}

/// v_k of every block in a pathway.
std::map<const Block*, double> pathway_gains(Network& network, double lean) {
  std::map<const Block*, double> gains;
  for (const auto& [name, sum] : outer_sums(network)) {
    const auto paths = pathways_of(*sum);
    const auto k = static_cast<double>(paths.size());
    const double total = lean + (k - 1);
    for (size_t i = 0; i < paths.size(); ++i) {
      const auto& [last, place] = paths[i].back();
      last->paths()[place]->visit_blocks(
          [&](Block& block) { gains[&block.one_use()] = k * k * (i == 0 ? lean : 1.0) / total; });
    }
  }
  return gains;
}

/// Flips rows of the first sum's weights so that their sums alternate in sign. A flip keeps the law
/// of each row; together it keeps a ReLU after few filters from clipping every stroke: images are
/// mostly one background value, and with four filters all sums are negative once in sixteen draws.
void balance_signs(Network& network) {
  for (const auto& layer : network.layers()) {
    const auto* sum = dynamic_cast<const Sum*>(layer.get());
    if (!sum) continue;
    for (const auto& path : sum->paths())
      path->visit_blocks([](Block& block) {
        if (block.is_bias || block.weight().dim() < 2) return;
        const auto rows = block.weight().flatten(1).sum(1);
        const auto even = torch::arange(rows.size(0), rows.device()).remainder(2) == 0;
        const auto sign =
            torch::where((rows > 0) == even, 1.0, -1.0).to(block.weight().scalar_type());
        auto shape = std::vector<int64_t>(block.weight().dim(), 1);
        shape[0] = -1;
        block.weight().mul_(sign.view(shape));
      });
    return;
  }
}

}  // namespace

Tensor to_tensor(const SafeTensor& tensor, std::string_view file) {
  for (const auto& type : kTypes) {
    if (tensor.dtype != type.name) continue;
    auto out = torch::empty(tensor.shape, type.type);
    std::memcpy(out.data_ptr(), tensor.bytes.data(), tensor.bytes.size());
    return out;
  }
  throw UsageError(
      fmt::format("{}: tensor \"{}\" has type {}, expected F32, F64, F16, BF16, I64 or U8", file,
                  tensor.name, tensor.dtype));
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
  throw UsageError(
      fmt::format("tensor \"{}\" has a type that safetensors files do not hold", name));
}

void initialise(Network& network, const Stream& stream, double lean) {
  torch::NoGradGuard no_grad;
  const auto gains = pathway_gains(network, lean);
  for (auto* block : named_blocks(network)) {
    // Norms and scalar layers keep their ones, and the zeros of their biases.
    if (dynamic_cast<const ScaleBlock*>(&block->one_use())) continue;
    const auto gain = gains.find(&block->one_use());
    const auto fan_in = fan_in_of(*block);
    const auto fresh = torch::empty(block->weight().sizes(), torch::kFloat64);
    const auto generator = [&](const Block& of) {
      return at::make_generator<at::CPUGeneratorImpl>(stream.split(of.name).key());
    };
    if (gain != gains.end()) {
      if (block->is_bias) {
        block->weight().zero_();
      } else {
        block->weight().copy_(
            fresh.normal_(0, std::sqrt(gain->second * 2 / fan_in), generator(*block)));
      }
    } else if (!block->is_bias) {
      const double bound = 1 / std::sqrt(fan_in);
      block->weight().copy_(fresh.uniform_(-bound, bound, generator(*block)));
      if (block->bias)
        block->bias->weight().copy_(torch::empty(block->bias->weight().sizes(), torch::kFloat64)
                                        .uniform_(-bound, bound, generator(*block->bias)));
    }
  }
  balance_signs(network);
}

std::vector<double> matched_precisions(Network& network, double lean) {
  const auto gains = pathway_gains(network, lean);
  std::vector<double> out;
  for (const auto* block : named_blocks(network)) {
    const auto gain = gains.find(&block->one_use());
    const auto fan_in = fan_in_of(*block);
    out.push_back(block->is_bias ? 1.0 : fan_in / 2 / (gain == gains.end() ? 1.0 : gain->second));
  }
  return out;
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
      throw UsageError(
          fmt::format("{}: {}", file.string(), unknown_name("tensor", tensor.name, names)));
    const auto value = to_tensor(tensor, file.string());
    if (value.sizes() != found->second.sizes())
      throw UsageError(fmt::format("{}: tensor \"{}\": expected {}, found {}", file.string(),
                                   tensor.name, shape_text(found->second.sizes()),
                                   shape_text(value.sizes())));
    if (value.is_floating_point() && !at::isfinite(value).all().item<bool>())
      throw UsageError(
          fmt::format("{}: tensor \"{}\" has NaN or infinite entries", file.string(), tensor.name));
    found->second.copy_(value);
    seen.insert(tensor.name);
  }
  for (const auto& name : names)
    if (!seen.count(name) && name.find("num_batches_tracked") == std::string::npos)
      throw UsageError(fmt::format("{}: tensor \"{}\" {} is missing", file.string(), name,
                                   shape_text(expected[name].sizes())));
}

std::string weights_digest(const Network& network) {
  Sha256 sha;
  for (const auto& [name, tensor] : state(network)) {
    const auto data = tensor.detach().cpu().contiguous();
    sha.update(name.data(), name.size() + 1);
    sha.update(data.sizes().data(), data.sizes().size() * sizeof(int64_t));
    sha.update(data.data_ptr(), data.nbytes());
  }
  return sha.hex();
}

void save_weights(const Network& network, const std::filesystem::path& file) {
  std::vector<SafeTensor> tensors;
  for (const auto& [name, tensor] : state(network)) tensors.push_back(to_safe_tensor(name, tensor));
  write_safetensors(file, tensors);
}

}  // namespace evariste
