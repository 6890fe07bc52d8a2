#include "train/shares.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace evariste {
namespace {

/// The tape of one module found by identity: sums may stand anywhere in the tree.
const Tape* find_tape(const Layer& layer, const Tape& tape, const Layer* wanted) {
  if (&layer == wanted) return &tape;
  const auto children = layer.children();
  for (size_t i = 0; i < tape.children.size() && i < children.size(); ++i) {
    const auto* child = dynamic_cast<const Layer*>(children[i].get());
    if (!child) continue;
    if (const auto* found = find_tape(*child, tape.children[i], wanted)) return found;
  }
  return nullptr;
}

std::vector<double> normalised(std::vector<double> values) {
  double sum = 0;
  for (const double v : values) sum += v;
  if (!std::isfinite(sum))
    throw NumericalError("variance shares: a pathway's output is not finite");
  for (double& v : values) v = sum > 0 ? v / sum : 1.0 / static_cast<double>(values.size());
  return values;
}

}  // namespace

std::vector<PathwayLayer> pathway_layers(Network& network) {
  const auto all = named_blocks(network);
  std::vector<PathwayLayer> out;
  for (const auto& item : network.named_modules("", false)) {
    auto* sum = dynamic_cast<Sum*>(item.value().get());
    if (!sum) continue;
    PathwayLayer layer;
    layer.name = item.key();
    layer.layer = sum;
    for (size_t k = 0; k < sum->paths().size(); ++k) {
      layer.paths.push_back(fmt::format("{}.{}", item.key(), k));
      auto& blocks = layer.blocks.emplace_back();
      sum->paths()[k]->visit_blocks([&](Block& block) {
        const auto found = std::find_if(all.begin(), all.end(), [&](const Block* one) {
          return one == &block || one->one_copy() == &block;
        });
        if (found == all.end())
          throw UsageError(fmt::format(
              "the pathways of {} are in a layer that is repeated: their shares differ from use to "
              "use; put the repeat into each pathway",
              item.key()));
        if (!block.is_bias) blocks.push_back(*found);
      });
    }
    out.push_back(std::move(layer));
  }
  return out;
}

std::vector<std::vector<double>> variance_shares(const Network& network,
                                                 const std::vector<PathwayLayer>& layers,
                                                 const Samples& data, int64_t batch) {
  torch::NoGradGuard no_grad;
  std::vector<std::vector<Tensor>> sums(layers.size()), squares(layers.size());
  double rows = 0;  // samples, or their copies
  for (int64_t begin = 0; begin < data.count(); begin += batch) {
    Tape tape;
    network.forward(data.inputs(begin, std::min(batch, data.count() - begin)), &tape);
    if (!layers.empty())
      rows += static_cast<double>(
          find_tape(network, tape, layers[0].layer)->children[0].output.size(0));
    for (size_t l = 0; l < layers.size(); ++l) {
      const auto* found = find_tape(network, tape, layers[l].layer);
      sums[l].resize(layers[l].paths.size());
      squares[l].resize(layers[l].paths.size());
      for (size_t k = 0; k < layers[l].paths.size(); ++k) {
        const auto out = found->children[k].output.to(torch::kFloat64);
        const auto sum = out.sum(0), square = out.square().sum(0);
        sums[l][k] = sums[l][k].defined() ? sums[l][k] + sum : sum;
        squares[l][k] = squares[l][k].defined() ? squares[l][k] + square : square;
      }
    }
  }
  const double n = data.sum(rows);
  std::vector<std::vector<double>> shares;
  for (size_t l = 0; l < layers.size(); ++l) {
    data.sum(sums[l]);
    data.sum(squares[l]);
    std::vector<double> variances;
    for (size_t k = 0; k < sums[l].size(); ++k)
      variances.push_back(
          (squares[l][k] / n - (sums[l][k] / n).square()).clamp_min(0).sum().item<double>());
    shares.push_back(normalised(std::move(variances)));
  }
  return shares;
}

std::vector<std::vector<double>> effective_shares(const Evidence& evidence,
                                                  const std::vector<PathwayLayer>& layers) {
  std::map<std::string, double> density;  // gamma / P
  for (const auto& block : evidence.blocks)
    density[block.name] = block.effective_dimension / static_cast<double>(block.parameters);
  std::vector<std::vector<double>> shares;
  for (const auto& layer : layers) {
    std::vector<double> values;
    for (const auto& blocks : layer.blocks) {
      double mean = 0;
      for (const auto* block : blocks)
        mean += density[block->name] / static_cast<double>(blocks.size());
      values.push_back(mean);
    }
    shares.push_back(normalised(std::move(values)));
  }
  return shares;
}

}  // namespace evariste
