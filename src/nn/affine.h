// Elementwise affine parameters: normalisation layers, scalar bias and scale (Fixup).
//
// gamma_c x_hat is a grouped linear map with one weight per group, so its curvature is the exact
// diagonal; no layer-specific formula is needed.
#pragma once

#include "nn/linear_map.h"

namespace evariste {

/// y[n, c, t] = w[c] x[n, c, t]: C groups with one weight each. With w [1], all entries share it.
class ScaleBlock : public Block {
 public:
  /// The weight is spread over `broadcast` (as [1, C, 1, 1]) against a sample batch.
  ScaleBlock(Tensor weight, std::vector<int64_t> broadcast);

  Tensor to_matrix(const Tensor& w) const override { return w.reshape({-1, 1, 1}); }
  Tensor phi(const Tensor& x) const override;
  Tensor to_positions(const Tensor& y) const override;
  Tensor from_positions(const Tensor& y, const Tensor& x) const override;
  Tensor apply(const Tensor& matrix, const Tensor& x) const override;
  Tensor backward_data(const Tensor& g, const Tensor& x) const override;

 private:
  std::vector<int64_t> broadcast_;
};

/// y = w x with a scalar w, initially 1.
class Scale : public LinearMap {
 public:
  Scale();
};

/// y = x + b with a scalar b, initially 0.
class ScalarBias : public Layer {
 public:
  ScalarBias();
  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                  bool needs_input) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;
  void visit_blocks(const std::function<void(Block&)>& visit) override;

 private:
  std::unique_ptr<Block> bias_;
};

/// batchnorm, layernorm, groupnorm: x_hat, then gamma x_hat + beta. Parameters `weight`, `bias` as
/// in torch; batchnorm has the buffers running_mean, running_var, num_batches_tracked and
/// normalises by them in evaluation mode. Curvature in training mode is refused for batchnorm.
class Norm : public Layer {
 public:
  enum class Kind { kBatch, kLayer, kGroup };
  /// shape: one sample's. groups: of groupnorm, a divisor of the channels. epsilon >= 0.
  Norm(Kind kind, std::vector<int64_t> shape, int64_t groups, double epsilon, bool affine,
       double momentum);

  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                  bool needs_input) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;
  void visit_blocks(const std::function<void(Block&)>& visit) override;
  bool bends() const override { return kind_ != Kind::kBatch; }
  std::string_view varies_in_training() const override {
    return kind_ == Kind::kBatch ? "batchnorm" : "";
  }

 private:
  Tensor normalise(const Tensor& x, Tensor* inverse_std) const;
  /// Transpose, and derivative, of the normalisation at a recorded point: it is symmetric.
  Tensor project(const Tensor& g, const Tape& tape, int64_t folds) const;
  std::vector<int64_t> statistics_shape(const Tensor& x) const;

  Kind kind_;
  std::vector<int64_t> shape_;
  int64_t groups_;
  double epsilon_, momentum_;
  std::unique_ptr<Block> weight_, bias_;
  mutable Tensor running_mean_, running_var_, batches_;
};

}  // namespace evariste
