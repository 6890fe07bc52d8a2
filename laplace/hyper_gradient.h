// Gradient of the evidence in hyper-parameters eta that the inputs or the features depend on: the
// range of an augmentation, a bandwidth, a degree. Kronecker-factored curvature, exact Fisher.
//
// 1/2 log|P| depends on eta through sums over the data: phi phi^T, g g^T and the exact trace. Its
// derivatives in those sums (Gamma, "cotangents") are closed form in the spectra, and no derivative
// of an eigenvector appears. What is left, sum_n <Gamma, d(..)>, would be a second derivative of
// the network by way of autograd over the backward pass of every column. Here it is
//   1. one folded backward of a basis of the outputs (R = C - 1 for softmax, which equal shifts do
//      not change), without a graph;
//   2. M_n = J_n Gamma J_n^T [R, R] and <M_n, d Lambda(f_n)>, a cotangent on the outputs;
//   3. Gamma phi, a cotangent on the features, or at once on the block's input;
//   4. where a layer's slope changes with its input (tanh, not relu), one folded forward derivative
//      of the tangents Gamma g, and <g, d slope o tangent> layer by layer;
//   5. one ordinary backward of the batch from all of these.
#pragma once

#include "laplace/evidence.h"

namespace evariste {

/// The leaves that blocks and layers of a network name as theirs (`hyperparameters`) and that want
/// a gradient, each once, by their names in the state_dict: "0.1.log_omega".
NamedTensors named_hyperparameters(Layer& network);

/// While it lives, the network's weights want no gradient; those leaves still do.
class FrozenWeights {
 public:
  explicit FrozenWeights(Layer& network);
  ~FrozenWeights();
  FrozenWeights(const FrozenWeights&) = delete;
  FrozenWeights& operator=(const FrozenWeights&) = delete;

 private:
  std::vector<Tensor> frozen_;
};

/// Derivatives of 1/2 (log|P| - log|P0|) in the sums that one block's factors are made of.
struct LogDetCotangent {
  Tensor input;   ///< Gamma^A [Q, J, J]: in the input factor A
  Tensor output;  ///< Gamma^B [Q, O, O]: in the output factor B
  Tensor trace;   ///< [Q]: in sum_{r,n} |G|^2 of a group
  Tensor exact;   ///< [Q, J, J], of elementwise blocks alone: in sum_{r,n} G^T G of a group
};

/// Of every block, for a fit with bases; sets the curvature's scale as evaluate_evidence does. With
/// a trace correction c = tr F/(tr A tr B) also its own derivatives: without it
/// sum_l <Gamma^A, A> = 1/2 gamma_l = sum_l <Gamma^B, B>. Throws UsageError for other structures
/// than kron.
std::vector<LogDetCotangent> log_det_cotangents(const Fit& fit, const Likelihood& likelihood,
                                                const Priors& priors, double temperature = 1.0);

/// The log-likelihood of a batch over the temperature, weighted as the fit's samples are: a scalar
/// whose gradient is that of the batch's share of the whole log evidence. Over the batches of the
/// fit's data the gradients add up to d log q(D)/d eta, with weights and prior precisions held.
/// What the network sees of the batch may require a gradient (its x, or a range that the view
/// depends on), and so may leaves that blocks or layers name as theirs
/// (`hyperparameters`); call backward() on the result, or torch::autograd::grad. batch.total is not
/// looked at; value and gradients of leaves are summed over processes, those of inputs are one's
/// own. What a view makes of the batch stays in memory until backward().
///
/// `options` are those of the fit: exact Fisher, all columns. Cost: for networks whose layers do
/// not bend about one fit of the batch, else another folded forward. Memory of one chunk at a time,
/// with the cotangents of all outputs; of every layer where layers bend.
Tensor evidence_surrogate(Layer& network, const Likelihood& likelihood, const Samples& batch,
                          const Fit& fit, const std::vector<LogDetCotangent>& cotangents,
                          const CurvatureOptions& options);

}  // namespace evariste
