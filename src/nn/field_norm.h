// Batch normalisation that commutes with a group.
#pragma once

#include "nn/affine.h"
#include "nn/field_type.h"

namespace evariste {

/// Batch normalisation of one kind of fields of any representation rho of d channels, [n, fields,
/// d, T] (IIDBatchNorm of Weiler & Cesa 2019's code): with T [d, q] the trivial irreps of rho, what
/// of a field no element changes,
///
///     mean = T T^T E[x],     var = E|x - mean|^2/d,
///     y = gamma (x - mean)/sqrt(var + eps) + T beta,
///
/// E over samples and positions. Another mean, or a variance for each channel, would not commute.
/// (The variance there is about each channel's own mean, so that a field which is the same vector
/// everywhere is divided by sqrt(eps); and mean and variance are not differentiated. Here the
/// gradient goes through both, as in Norm.)
///
/// Parameters `weight` [fields], `bias` [fields q]; buffers `running_mean` [fields, q], of T^T x,
/// `running_var` [fields], `num_batches_tracked`, `basis` [d, q], float64. Without trivial irreps
/// there is no mean and no bias. Curvature in evaluation mode.
class RepresentationNorm : public Layer {
 public:
  RepresentationNorm(int64_t fields, const Representation& rho, double epsilon, bool affine,
                     double momentum);

  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                  bool needs_input) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;
  void visit_blocks(const std::function<void(Block&)>& visit) override;
  std::string_view varies_in_training() const override { return "batchnorm"; }

 private:
  Tensor normalise(const Tensor& x, Tensor* inverse_std) const;

  int64_t fields_, size_, invariants_;  // n, d, q
  double epsilon_, momentum_;
  std::unique_ptr<Block> weight_, bias_;
  Tensor basis_;
  mutable Tensor running_mean_, running_var_, batches_;
};

/// Batch normalisation of fields, one mean, variance, weight and bias for each: children "0", "1"
/// ... of the kinds. Of permutations these are over the field's channels too, which the group moves
/// about, a Norm over [n, fields, channels of one x pixels]; of other kinds a RepresentationNorm.
class FieldNorm : public Layer {
 public:
  /// shape: one sample's, [C, ...].
  FieldNorm(const FieldType& fields, const std::vector<int64_t>& shape, double epsilon, bool affine,
            double momentum);

  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                  bool needs_input) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;
  void visit_blocks(const std::function<void(Block&)>& visit) override;

 private:
  struct Kind {
    int64_t first, channels;
    std::vector<int64_t> own;  // sizes of its part of a sample, the last -1
    std::shared_ptr<Layer> norm;
  };
  /// The channels of a kind, which lie in `dimension`, as its norm takes them.
  static Tensor apart(const Tensor& x, const Kind& kind, int64_t dimension);

  std::vector<Kind> kinds_;
};

}  // namespace evariste
