// Nonlinearities that commute with a group: of functions on it, evaluated at its elements, where
// turning permutes values, and of any fields, by numbers that do not transform.
#pragma once

#include "nn/combine.h"
#include "nn/field_type.h"
#include "nn/pointwise.h"

namespace evariste {

/// A fixed linear map of each field, [n, fields d, ...] -> [n, fields e, ...]; buffers basis_k [e,
/// d], float64, one for each kind.
class FieldTransform : public Gather {
 public:
  /// fields: number of each kind.
  FieldTransform(const std::vector<int64_t>& fields, const std::vector<Tensor>& bases);
  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;

 protected:
  Tensor transpose(const Tensor& g, const Tape& tape) const override;

 private:
  Tensor map(const Tensor& x, bool transposed) const;
  std::vector<int64_t> fields_;
  std::vector<Tensor> bases_;
};

/// y = A^+ h(A x): A evaluates the function whose coefficients a field holds at `samples` rotations
/// (and as many reflections), A^+ takes the coefficients of what h makes of it, up to the same
/// frequency (Cohen et al. 2018; Cesa et al. 2022, section 5.2). Commutes exactly with the elements
/// of that grid, with others the better the more samples. Layers "0" (A), "1" (h), "2" (A^+).
class FourierActivation : public Sequential {
 public:
  /// Fields "<L", or trivial, which h acts on as they are. samples: 0 for twice as many as the
  /// largest L needs, and a multiple of four. Throws UsageError for other fields and for fewer than
  /// 2 L + 1.
  FourierActivation(const FieldType& fields, std::string_view kind, int64_t samples = 0);
};

/// Fields times gates (Weiler et al. 2018, arXiv 1807.02547, section 3.2.2): of T channels that do
/// not transform and F other fields the last F of the T are gates s,
///
///     y_f = sigmoid(s_f) x_f,      y_t = h(x_t) of the other T - F channels,
///
/// which come first in the output, then the fields in their order. Commutes with every element.
class GatedActivation : public Layer {
 public:
  /// kind: h, as Activation has it. Throws UsageError where T < F or there is no other field.
  GatedActivation(const FieldType& fields, std::string_view kind);
  const FieldType& out() const { return out_; }

  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                  bool needs_input) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;
  bool bends() const override { return true; }

 private:
  struct Range {  // of one kind of fields
    int64_t first, fields, size;
    int64_t channels() const { return fields * size; }
  };
  /// The T channels, of any tensor whose channels lie in `dimension`.
  Tensor scalars(const Tensor& x, int64_t dimension) const;

  FieldType out_;
  std::vector<Range> trivial_, gated_;
  int64_t channels_, kept_ = 0;  // of the input; T - F
  Activation activation_;        // part of this layer, not one of its own
};

}  // namespace evariste
