// Functions of the lengths of fields, which no element of the group changes: nonlinearities for
// fields of any kind, and the lengths themselves.
#pragma once

#include "nn/field_type.h"
#include "nn/pointwise.h"

namespace evariste {

/// Fields of one kind: channels first ... first + fields * size, those of a field side by side.
struct FieldRange {
  int64_t first, fields, size;
  int64_t channels() const { return fields * size; }
};

/// |x_f| of every field (norm pooling), [n, C, ...] -> [n, fields, ...]: channels that do not
/// transform. Not differentiable at 0, where the derivative is taken as 0 (|x_f| <= 1e-10).
class FieldLength : public Layer {
 public:
  explicit FieldLength(const FieldType& fields);
  explicit FieldLength(std::vector<FieldRange> ranges) : ranges_(std::move(ranges)) {}

  /// The tape's `aux` keeps 1/|x_f|, 0 where the length is.
  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                  bool needs_input) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;
  bool bends() const override { return true; }

 private:
  std::vector<FieldRange> ranges_;
};

/// Fields scaled by a function of their length (Worrall et al. 2017; Weiler & Cesa 2019, section
/// 2.6),
///
///     y_f = h(|x_f| + b_f) x_f/|x_f|,      0 where |x_f| <= 1e-10,
///
/// which commutes with every element. Channels that do not transform are numbers of two signs: they
/// get h itself, without a bias. Parameter `bias` [fields that transform], initially 0: relu is the
/// identity then, and no field is cut off. (In the code of e2cnn h acts on |x_f| - exp(beta_f) with
/// beta = 0 at the start: no field shorter than 1 passes, and the layer is not linear in its
/// parameter.)
class NormActivation : public Layer {
 public:
  /// relu, sigmoid, softplus, and squash: x/(1 + |x|), which has no bias.
  static std::vector<std::string> kinds();
  /// Throws UsageError for squash with a bias, and for relu without one.
  NormActivation(const FieldType& fields, std::string_view kind, bool bias);
  ~NormActivation() override;

  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                  bool needs_input) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;
  bool bends() const override { return true; }
  void visit_blocks(const std::function<void(Block&)>& visit) override;

 private:
  class Gain;
  std::unique_ptr<FieldLength> lengths_;  // of fields that transform; parts of this layer, not
  std::unique_ptr<Gain> gain_;            // layers of their own
  std::unique_ptr<Block> bias_;
};

}  // namespace evariste
