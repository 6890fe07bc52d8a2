// Nonlinearities for fields that are functions on a group by their Fourier coefficients: evaluated
// at elements of the group, where turning permutes values, and transformed back.
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

}  // namespace evariste
