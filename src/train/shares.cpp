#include "train/shares.h"

#include <algorithm>
#include <cmath>
#include <map>

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
  for (const auto& [name, sum] : outer_sums(network)) {
    PathwayLayer layer{name, {}};
    for (auto& choices : pathways_of(*sum)) {
      Pathway pathway{name, {}, std::move(choices)};
      for (const auto& [of, k] : pathway.choices) {
        const auto* inner = of->inner_sum(k);  // first in a sequence, or all there is
        pathway.name += fmt::format(".{}{}", k, inner && inner != of->paths()[k].get() ? ".0" : "");
      }
      const auto& [last, k] = pathway.choices.back();
      last->paths()[k]->visit_blocks([&](Block& block) {
        const auto found = std::find_if(all.begin(), all.end(), [&](const Block* one) {
          return one == &block || one->one_copy() == &block;
        });
        if (found == all.end())
          throw UsageError(fmt::format(
              "the pathways of {} are in a layer that is repeated: their shares differ from use to "
              "use; put the repeat into each pathway",
              layer.name));
        if (!block.is_bias) pathway.weights.push_back(*found);
      });
      layer.paths.push_back(std::move(pathway));
    }
    out.push_back(std::move(layer));
  }
  return out;
}

std::vector<std::vector<double>> variance_shares(const Network& network,
                                                 const std::vector<PathwayLayer>& layers,
                                                 const Samples& data, int64_t batch) {
  torch::NoGradGuard no_grad;
  struct Moments {
    Tensor sum, square;
  };
  std::map<const Sum*, std::vector<Moments>> moments;  // of each pathway
  std::vector<const Sum*> sums;                        // in one order in all processes
  for (const auto& layer : layers)
    for (const auto& path : layer.paths)
      for (const auto& [sum, k] : path.choices)
        if (moments.try_emplace(sum, sum->paths().size()).second) sums.push_back(sum);
  double rows = 0;  // samples, or their copies
  for (int64_t begin = 0; begin < data.count() && !sums.empty(); begin += batch) {
    Tape tape;
    network.forward(data.inputs(begin, std::min(batch, data.count() - begin)), &tape);
    rows += static_cast<double>(find_tape(network, tape, sums[0])->children[0].output.size(0));
    for (const auto* sum : sums) {
      const auto* found = find_tape(network, tape, sum);
      for (size_t k = 0; k < sum->paths().size(); ++k) {
        const auto out = found->children[k].output.to(torch::kFloat64);
        auto& at = moments[sum][k];
        const auto total = out.sum(0), square = out.square().sum(0);
        at.sum = at.sum.defined() ? at.sum + total : total;
        at.square = at.square.defined() ? at.square + square : square;
      }
    }
  }
  const double n = data.sum(rows);
  std::map<const Sum*, std::vector<double>> shares;
  for (const auto* sum : sums) {
    std::vector<double> variances;
    for (auto& at : moments[sum]) {
      data.sum({at.sum, at.square});
      variances.push_back(
          (at.square / n - (at.sum / n).square()).clamp_min(0).sum().item<double>());
    }
    shares[sum] = normalised(std::move(variances));
  }
  std::vector<std::vector<double>> out;
  for (const auto& layer : layers) {
    auto& of_layer = out.emplace_back();
    for (const auto& path : layer.paths) {
      double share = 1;
      for (const auto& [sum, k] : path.choices) share *= shares[sum][k];
      of_layer.push_back(share);
    }
  }
  return out;
}

std::vector<std::vector<double>> effective_shares(const Evidence& evidence,
                                                  const std::vector<PathwayLayer>& layers) {
  std::map<std::string, double> density;  // gamma / P
  for (const auto& block : evidence.blocks)
    density[block.name] = block.effective_dimension / static_cast<double>(block.parameters);
  std::vector<std::vector<double>> shares;
  for (const auto& layer : layers) {
    std::vector<double> values;
    for (const auto& path : layer.paths) {
      double mean = 0;
      for (const auto* block : path.weights)
        mean += density[block->name] / static_cast<double>(path.weights.size());
      values.push_back(mean);
    }
    shares.push_back(normalised(std::move(values)));
  }
  return shares;
}

}  // namespace evariste
