#include "nn/relaxation.h"

#include "core/error.h"
#include "nn/steerable_convolution.h"

namespace evariste {
namespace {

/// Names of a layer's weights behind its own, "weight" or "weight_1".
std::vector<std::string> weight_names(const Layer& layer) {
  std::vector<std::string> names;
  for (const auto& item : layer.named_parameters(/*recurse=*/false))
    if (item.key().starts_with("weight")) names.push_back(item.key());
  return names;
}

class Relaxer {
 public:
  explicit Relaxer(int band) : band_(band) {}

  void visit(Sequential& sequence, const std::string& place) {
    for (size_t i = 0; i < sequence.layers().size(); ++i)
      if (const auto relaxed = visit(sequence.layers()[i], place + std::to_string(i)))
        sequence.replace(i, relaxed);
  }

  std::map<std::string, RelaxedBlock> blocks() && { return std::move(blocks_); }

 private:
  /// What stands in place of a layer; null where it stays.
  std::shared_ptr<Layer> visit(const std::shared_ptr<Layer>& layer, const std::string& name) {
    if (auto* sum = dynamic_cast<Sum*>(layer.get())) {
      if (sum->paths().size() == 1)  // what is left of others that were pruned
        if (const auto relaxed = visit(sum->paths()[0], name + ".0")) sum->replace(0, relaxed);
    } else if (auto* inner = dynamic_cast<Sequential*>(layer.get())) {
      if (!dynamic_cast<Repeat*>(inner)) visit(*inner, name + ".");
    } else if (const auto relaxed = relaxed_of<ConvBlock>(layer, name)) {
      return relaxed;
    } else {
      return relaxed_of<VolumeConvBlock>(layer, name);
    }
    return nullptr;
  }

  template <class Conv>
  std::shared_ptr<Layer> relaxed_of(const std::shared_ptr<Layer>& layer, const std::string& name) {
    const auto strict = std::dynamic_pointer_cast<SteerableConv<Conv>>(layer);
    if (!strict) return nullptr;
    const auto& group = *strict->in().group;
    const auto trivial = group.irreps(0)[0].name;
    auto options = strict->options();
    if (strict->degree() || (!options.isotypic.empty() && options.isotypic != trivial))
      return nullptr;
    auto sum = std::make_shared<Sum>(1.0);
    sum->append(strict);
    add(*strict, name + ".0", {name, trivial, true});
    options.bias = false;
    for (const auto& irrep : group.irreps(group.is_finite() ? group.largest_band() : band_)) {
      if (irrep.is_trivial) continue;
      options.isotypic = irrep.name;
      const auto part = part_of<Conv>(*strict, options);
      if (!part) continue;
      add(*part, fmt::format("{}.{}", name, sum->paths().size()), {name, irrep.name});
      sum->append(part);
    }
    return sum;
  }

  /// With weights of 0; null where there are no such kernels of this size.
  template <class Conv>
  std::shared_ptr<SteerableConv<Conv>> part_of(const SteerableConv<Conv>& strict,
                                               const SteerableOptions& options) const {
    std::shared_ptr<SteerableConv<Conv>> part;
    try {
      part = std::make_shared<SteerableConv<Conv>>(strict.in(), strict.out(), options);
    } catch (const UsageError&) {
      return nullptr;
    }
    const auto like = strict.parameters()[0];
    torch::NoGradGuard no_grad;
    for (auto& weight : part->parameters()) weight.zero_();
    part->to(like.device(), like.scalar_type());
    part->train(strict.is_training());
    return part;
  }

  void add(const Layer& layer, const std::string& place, const RelaxedBlock& block) {
    for (const auto& weight : weight_names(layer)) blocks_[place + "." + weight] = block;
  }

  int band_;
  std::map<std::string, RelaxedBlock> blocks_;
};

}  // namespace

std::map<std::string, RelaxedBlock> relax(Network& network, int band) {
  Relaxer relaxer(band);
  relaxer.visit(network, "");
  named_blocks(network);
  return std::move(relaxer).blocks();
}

}  // namespace evariste
