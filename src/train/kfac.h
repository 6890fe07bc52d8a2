// Training steps with the curvature of the last evidence refresh (K-FAC, Martens & Grosse 2015; KL
// clipping, Ba et al. 2017).
//
// For each block, with H = U_B diag(lambda) U_A^T from the refresh and G the gradient of
// F = -sum log p + 1/2 delta |theta|^2:
//
//   u = U_B [ (U_B^T G U_A) / (lambda + delta + eps) ] U_A^T
//   nu = min(1, sqrt(kappa N / (lr^2 <u, G>)))
//   m <- momentum m + nu u;   theta <- theta - lr m
//
// Between two refreshes weights and momentum are kept as coordinates in the eigenbasis, where a
// step is elementwise: exact, and for wide dense maps several times cheaper than rotating each
// gradient. eps follows a Levenberg-Marquardt rule: the same minibatch before and after a step
// against the decrease that the damping-free quadratic predicts.
#pragma once

#include "laplace/evidence.h"
#include "train/config.h"

namespace evariste {

class KfacStep {
 public:
  KfacStep(std::vector<Block*> blocks, const KfacConfig& config);

  /// Takes the bases of a Kronecker fit (the scale h set), converts weights and momentum.
  /// `precisions`: the prior's pull, one number per block.
  void enter(const KronCurvature& curvature, const std::vector<double>& precisions);
  /// Averages the weights, if steps were averaged, and converts back: weights are weights again.
  void leave();
  bool is_inside() const { return inside_; }

  /// Sum over the minibatch of -log p at the present weights. A minibatch that several processes
  /// share is theirs to add up, its gradients() too.
  using Loss = std::function<double(bool with_gradient)>;

  /// One step, its weights averaged if `average`. `loss(true)` runs forward and backward, reporting
  /// to gradient(); `loss(false)` only forward. weight: N / minibatch size. Returns the sum of -log
  /// p before the step.
  double step(const Loss& loss, double lr, double weight, bool average);

  /// For the backward pass of a minibatch: takes sum g phi^T of a block.
  void gradient(const Block& block, const Tensor& x, const Tensor& g);

  /// All that was reported for the minibatch, [P]; shares its memory.
  Tensor gradients() const { return gradient_; }

  double damping() const { return damping_; }
  void raise_damping(double factor);
  double clip_mean() const { return clips_ ? clip_sum_ / static_cast<double>(clips_) : 1.0; }

  /// Outside only: momentum per block, damping and step count.
  std::map<std::string, Tensor> state() const;
  void set_state(const std::map<std::string, Tensor>& state);
  void forget_momentum();

 private:
  struct Part {
    Block* block;
    int64_t begin, count;
    std::vector<int64_t> shape;  // [Q, O, J]
    Tensor basis_b, basis_a;     // [Q, O, O], [Q, J, J]; undefined where the side has size one
    bool in_layer = false;       // the layer itself works in coordinates
    Tensor outside;              // the weight's own storage while in_layer
    double pull = 0;             // the prior's precision
  };
  Tensor view(const Tensor& flat, const Part& part) const;
  Tensor to_coordinates(const Tensor& w, const Part& part) const;
  Tensor from_coordinates(const Tensor& w, const Part& part) const;
  void write_weights();
  double prior_energy() const;
  void adapt(double ratio, bool downhill);

  KfacConfig config_;
  std::vector<Part> parts_;
  std::map<const Block*, size_t> index_;
  Tensor theta_, momentum_, gradient_, lambda_, pulls_, average_;  // flat [P]; pulls_ not on a CPU
  int64_t samples_ = 0, averaged_ = 0, steps_ = 0, clips_ = 0;
  double damping_, clip_sum_ = 0;
  bool inside_ = false;
};

}  // namespace evariste
