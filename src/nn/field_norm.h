// Batch normalisation that commutes with a group.
#pragma once

#include "nn/affine.h"
#include "nn/field_type.h"

namespace evariste {

/// Batch normalisation of fields of permutations: one mean, variance, weight and bias for each
/// field, over its channels too, which the group permutes (InnerBatchNorm of Weiler & Cesa 2019's
/// code). Children "0", "1" ..., a Norm of each kind over [n, fields, channels of one x pixels].
class FieldNorm : public Layer {
 public:
  /// shape: one sample's, [C, ...]. Throws UsageError for fields that are no permutations.
  FieldNorm(const FieldType& fields, const std::vector<int64_t>& shape, double epsilon, bool affine,
            double momentum);

  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                  bool needs_input) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;
  void visit_blocks(const std::function<void(Block&)>& visit) override;

 private:
  struct Kind {
    int64_t first, channels, fields;
    std::shared_ptr<Norm> norm;
  };
  /// The channels of a kind, which lie in `dimension`, field by field: [.., fields, rest].
  static Tensor apart(const Tensor& x, const Kind& kind, int64_t dimension);

  std::vector<Kind> kinds_;
};

}  // namespace evariste
