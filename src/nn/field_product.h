// Products of fields as a nonlinearity.
#pragma once

#include "nn/field_type.h"
#include "nn/pointwise.h"

namespace evariste {

/// The products of every field with itself, decomposed into irreps by Clebsch-Gordan coefficients
/// (Thomas et al. 2018, arXiv 1802.08219; Kondor et al. 2018, arXiv 1806.09231),
///
///     y_f = [x_f, C (x_f (x) x_f)],
///
/// their symmetric part alone (groups/symmetric_square.h), so that |C (x (x) x)| = |x|^2. Commutes
/// with every element. All x come first in the output, then the products: of a kind of d channels
/// fields of the kind KIND^2, a sum of irreps of d(d + 1)/2 channels in all, and channels that do
/// not transform of those that do not. Buffers basis_k [d(d + 1)/2, d(d + 1)/2], C of each kind,
/// float64.
class FieldProduct : public Layer {
 public:
  /// keep: x itself too, without which an odd function of x is out of reach.
  FieldProduct(const FieldType& fields, bool keep);
  const FieldType& out() const { return out_; }

  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                  bool needs_input) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;
  bool bends() const override { return true; }

 private:
  struct Kind {
    int64_t first, fields, size;
    Tensor basis;
    int64_t channels() const { return fields * size; }
    int64_t pairs() const { return basis.size(0); }
  };
  FieldType out_;
  bool keep_;
  int64_t channels_;
  std::vector<Kind> kinds_;
};

}  // namespace evariste
