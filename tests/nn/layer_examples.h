// The one list of small networks that the properties of layers and of curvature are checked on: at
// least one for every layer type. A new layer adds a line here and is covered by all of them.
#pragma once

#include <string>
#include <vector>

#include "nn/network.h"

namespace evariste {

struct LayerExample {
  std::string type;    ///< the layer type this is an example of
  std::string title;   ///< for failures
  std::string input;   ///< TOML, one sample's shape
  std::string layers;  ///< TOML; flatten and a linear layer with 3 outputs are put behind them
  int64_t copies = 0;  ///< K > 0: outputs averaged over K copies of each sample

  /// float64, in evaluation mode, all weights and buffers random.
  std::shared_ptr<Network> build(uint64_t seed = 1) const;
  /// Random inputs [n, ...], or [n, K, ...], float64.
  Tensor inputs(int64_t n, uint64_t seed = 2) const;
};

const std::vector<LayerExample>& layer_examples();

/// Builds a network from TOML text.
std::shared_ptr<Network> network_of(const std::string& text, int64_t classes = 0);
/// In float64 with random weights, away from the special values of an initialisation.
void randomise(Network& network, uint64_t seed);
/// Standard normal numbers, float64.
Tensor random_tensor(at::IntArrayRef shape, uint64_t seed);

}  // namespace evariste
