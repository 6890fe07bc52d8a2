// The slow definitions that curvature and evidence are tested against: autograd Jacobians and dense
// matrices.
#pragma once

#include "laplace/evidence.h"
#include "laplace/priors/builtin.h"
#include "tests/nn/layer_examples.h"

namespace evariste {

using Blocks = std::vector<const Block*>;

/// d f / d theta [n, C, P] by one autograd backward per output; the blocks' entries one after the
/// other, each as [Q, O, J].
Tensor autograd_jacobian(const Layer& network, const Tensor& x, const Blocks& blocks);

/// sum_n J_n^T Lambda_n J_n [P, P]
Tensor dense_ggn(const Layer& network, const Likelihood& likelihood, const Tensor& x,
                 const Blocks& blocks);

/// Rows and columns of one block.
Tensor part_of(const Tensor& hessian, const Blocks& blocks, size_t block);

/// The matrix that a Kronecker factor stands for, [Q O J, Q O J].
Tensor dense_kron(const KronFactor& factor);

/// h H + P0 [P, P] of any structure.
Tensor dense_precision(const Curvature& curvature, const Precisions& precisions);

/// log|H + delta I| - log|delta I| for each delta of a diagonal
double log_det_ratio(const Tensor& hessian, const Tensor& delta);

/// sin(0.7 i + s), i the row-major index: the data of the published golden values.
Tensor ramp(at::IntArrayRef shape, double s);

/// One IsotropicGaussian of its own for every block.
Priors layerwise_priors(const Curvature& curvature, const std::vector<double>& precisions);
Priors layerwise_priors(const Curvature& curvature, double precision);

/// Labels 0 .. classes-1, int64 [n].
Tensor random_labels(int64_t n, int64_t classes, uint64_t seed);

/// Sets the parameters of a network in order.
void set_parameters(Network& network, const std::vector<Tensor>& values);

CurvatureOptions options_of(Structure structure);

}  // namespace evariste
