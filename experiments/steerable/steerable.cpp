// steerable: networks on fields of a group, strictly equivariant or as far as the evidence wants.
//
// Kernels of a steerable convolution (Weiler & Cesa, "General E(2)-Equivariant Steerable CNNs",
// NeurIPS 2019) and the parts that leave it out, irrep by irrep, each with a prior precision of its
// own: the degree of equivariance of every layer (as a density: Veefkind & Cesa, "A Probabilistic
// Approach to Learning the Degree of Equivariance in Steerable CNNs", ICML 2024).
#include "experiments/run/program.h"

int main(int argc, char** argv) {
  return evariste::run_experiment(
      {"steerable",
       "Steerable convolutional networks and their degree of equivariance by Laplace evidence. "
       "Without --config: how far each layer is equivariant to quarter turns.",
       "degree"},
      argc, argv);
}
