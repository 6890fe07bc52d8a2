// Layers without parameters: activations, pools, flatten, polyphase subsampling, dropout.
#pragma once

#include <array>

#include "laplace/layer.h"

namespace evariste {

/// What activations take, with torch's defaults.
struct ActivationOptions {
  double alpha = 1;        ///< elu: alpha (exp(x) - 1) where x <= 0
  bool tanh_gelu = false;  ///< gelu: its approximation by tanh
  double beta = 1;         ///< softplus: log(1 + exp(beta x)) / beta, beta > 0
  double threshold = 20;   ///< softplus: x itself where beta x is above it
};

/// y = h(x) elementwise. The tape keeps h'(x), so backward and jvp are products.
class Activation : public Layer {
 public:
  /// relu tanh sigmoid gelu elu silu softplus; unknown names are UsageErrors.
  explicit Activation(std::string_view kind, const ActivationOptions& options = {});
  static std::vector<std::string> kinds();

  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                  bool needs_input) const override;
  Tensor backward_onto(const Tensor& skip, const Tensor& g, const Tape& tape,
                       const Sink& sink) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;
  bool bends() const override { return bends_; }

 private:
  bool bends_ = false;
  bool is_rectifier_ = false;
  Tensor (*value_)(const Tensor& x, const ActivationOptions& options);
  Tensor (*slope_)(const Tensor& x, const Tensor& y, const ActivationOptions& options);
  ActivationOptions options_;
};

/// A linear or piecewise linear map given by its transpose: what pools and reshapes share.
class Gather : public Layer {
 public:
  Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                  bool needs_input) const override;

 protected:
  /// Transpose of the map at tape.x, g [m, ...] with m a multiple of n.
  virtual Tensor transpose(const Tensor& g, const Tape& tape) const = 0;
};

/// Maximum over windows of [n, C, H, W], or of [n, C, L] with a kernel {1, k}; the tape keeps which
/// entry won.
class MaxPool : public Gather {
 public:
  MaxPool(std::array<int64_t, 2> kernel, std::array<int64_t, 2> stride,
          std::array<int64_t, 2> padding);
  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;

 protected:
  Tensor transpose(const Tensor& g, const Tape& tape) const override;

 private:
  std::array<int64_t, 2> kernel_, stride_, padding_;
};

class AvgPool : public Gather {
 public:
  AvgPool(std::array<int64_t, 2> kernel, std::array<int64_t, 2> stride,
          std::array<int64_t, 2> padding);
  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;

 protected:
  Tensor transpose(const Tensor& g, const Tape& tape) const override;

 private:
  std::array<int64_t, 2> kernel_, stride_, padding_;
};

/// Mean over all positions, [n, C, ...] -> [n, C].
class GlobalAvgPool : public Gather {
 public:
  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;

 protected:
  Tensor transpose(const Tensor& g, const Tape& tape) const override;
};

class Flatten : public Gather {
 public:
  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;

 protected:
  Tensor transpose(const Tensor& g, const Tape& tape) const override;
};

/// Shift-equivariant subsampling by s: of the s x s phases x[:, :, i::s, j::s] each sample keeps
/// the one with the largest maximum over channels and positions; ties go to (0,0), (1,0), (0,1),
/// (1,1), the row offset first (Chaman & Dokmanic 2021, per sample so that a network stays a
/// function of one example). An integer shift of x permutes the phases, so it shifts the output.
class Polyphase : public Gather {
 public:
  explicit Polyphase(int64_t stride);
  int64_t stride() const { return stride_; }
  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;

 protected:
  Tensor transpose(const Tensor& g, const Tape& tape) const override;

 private:
  Tensor phases(const Tensor& x) const;  // [n, s^2, C, H/s, W/s]
  int64_t stride_;
};

/// Inverted dropout in training mode, the identity in evaluation mode.
class Dropout : public Layer {
 public:
  explicit Dropout(double p) : p_(p) {}
  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                  bool needs_input) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;
  std::string_view varies_in_training() const override { return "dropout"; }

 private:
  double p_;
};

}  // namespace evariste
