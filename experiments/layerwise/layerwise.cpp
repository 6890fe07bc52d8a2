// layerwise: how much symmetry each layer should have, learned from data.
//
// The same images and the same network, fully connected + convolutional in every layer; in one task
// the label ignores the position, in the other it needs it. The Laplace evidence prunes what is not
// needed (van der Ouderaa, Immer, van der Wilk, "Learning Layer-wise Equivariances Automatically
// using Gradients", NeurIPS 2023, section 6.1).
#include "experiments/run/program.h"

int main(int argc, char** argv) {
  return evariste::run_experiment(
      {"layerwise",
       "Layer-wise equivariance and learned augmentation by Laplace evidence. Without --config: "
       "digit- and quadrant-MNIST, the same images, the same network with a convolutional and a "
       "fully connected pathway in every layer.",
       "layerwise"},
      argc, argv);
}
