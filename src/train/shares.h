// How much each pathway of a sum contributes, by function and by effective parameters.
#pragma once

#include "laplace/evidence.h"
#include "nn/network.h"

namespace evariste {

/// The sums of a network, in order: name "0", pathway names "0.0", "0.1" and their weight blocks.
struct PathwayLayer {
  std::string name;
  const Sum* layer = nullptr;
  std::vector<std::string> paths;
  std::vector<std::vector<const Block*>> blocks;  ///< weights only, per pathway
};
std::vector<PathwayLayer> pathway_layers(Network& network);

/// Variance over the samples of each pathway's output, summed over its entries, as a share of all
/// pathways of the layer: [layer][pathway], each layer sums to 1.
std::vector<std::vector<double>> variance_shares(const Network& network,
                                                 const std::vector<PathwayLayer>& layers,
                                                 const Samples& data, int64_t batch);

/// (gamma/P) of each pathway's weights as a share; mean over the tensors of a factored pathway
/// (van der Ouderaa et al. 2023, "relative effective dimensions").
std::vector<std::vector<double>> effective_shares(const Evidence& evidence,
                                                  const std::vector<PathwayLayer>& layers);

}  // namespace evariste
