// How much each pathway of a sum contributes, by function and by effective parameters.
#pragma once

#include "laplace/evidence.h"
#include "nn/network.h"

namespace evariste {

/// A pathway of a sum, or of a sum that one of its pathways begins with.
struct Pathway {
  std::string name;                   ///< "0.1", "0.1.0.0"
  std::vector<const Block*> weights;  ///< without biases
  Choices choices;
};

/// The sums of a network that are no part of another's pathways, in order.
struct PathwayLayer {
  std::string name;  ///< "0"
  std::vector<Pathway> paths;
};
std::vector<PathwayLayer> pathway_layers(Network& network);

/// Variance over the samples of each pathway's output, summed over its entries, as a share of all
/// pathways of the layer: [layer][pathway], each layer sums to 1. Pathways of an inner sum share
/// what that sum's pathway has, by their own outputs (which may be subsampled together behind).
std::vector<std::vector<double>> variance_shares(const Network& network,
                                                 const std::vector<PathwayLayer>& layers,
                                                 const Samples& data, int64_t batch);

/// (gamma/P) of each pathway's weights as a share; mean over the tensors of a factored pathway
/// (van der Ouderaa et al. 2023, "relative effective dimensions").
std::vector<std::vector<double>> effective_shares(const Evidence& evidence,
                                                  const std::vector<PathwayLayer>& layers);

}  // namespace evariste
