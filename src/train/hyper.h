// What is learnt besides weights and priors: bandwidths and degrees that layers name as theirs and
// the ranges of an augmentation, by ascent of the evidence (Immer et al. 2022) or, as a baseline,
// by descent of the training loss (Benton et al. 2020; with penalties Veefkind & Cesa 2024).
#pragma once

#include "laplace/hyper_gradient.h"
#include "laplace/prior_leaves.h"
#include "nn/affine_augmentation.h"
#include "nn/degree.h"
#include "nn/network.h"
#include "train/checkpoint.h"
#include "train/config.h"

namespace evariste {

class HyperLearner {
 public:
  /// `augmentation` may be null. Both outlive the learner.
  HyperLearner(Network& network, const AffineAugmentation* augmentation, HyperConfig config);

  bool learns_by_evidence() const { return !leaves_.empty() && config_.score == "evidence"; }
  bool learns_by_loss() const { return !leaves_.empty() && config_.score == "loss"; }

  /// One step up the evidence, whose gradient is that of `data`'s share of it: an exact Kronecker
  /// fit of `data`, then evidence_surrogate. Throws NumericalError where it is not finite.
  void climb_evidence(const Likelihood& likelihood, const Priors& priors, const Samples& data,
                      const CurvatureOptions& options, double learning_rate);
  /// One step down mean -log p over a minibatch, less `penalty` |ranges|, plus the penalties of
  /// degrees (DegreePenalty).
  void descend_loss(const Likelihood& likelihood, const Samples& batch, double learning_rate);

  /// Numbers as they are recorded, learnt or not: "0.1.log_omega", "augmentation.rotation", of
  /// lists one by one, "3.degree.0"; of a degree also its KL to the uniform density in nats,
  /// "3.degree.divergence".
  std::vector<std::string> names() const;
  std::vector<double> values() const;

  State state() const;
  void set_state(const State& state);

 private:
  void step(std::vector<Tensor> descent, double learning_rate);
  const Tensor* ranges() const;
  const Degree* degree_of(const Tensor& leaf) const;

  Network& network_;
  const AffineAugmentation* augmentation_;
  HyperConfig config_;
  NamedTensors leaves_;  // those that want a gradient; the ranges last
  std::vector<const Degree*> degrees_;
  Adam adam_;
};

}  // namespace evariste
