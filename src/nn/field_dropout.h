// Dropout that commutes with a group.
#pragma once

#include "nn/field_type.h"
#include "nn/pointwise.h"

namespace evariste {

/// Whole fields are dropped, all channels and pixels of one together, each with probability p; the
/// others are divided by 1 - p (inverted dropout). The identity in evaluation mode. Of channels
/// that are no fields each is one (torch's Dropout2d).
class FieldDropout : public Layer {
 public:
  FieldDropout(const FieldType& fields, double p);
  FieldDropout(int64_t channels, double p);
  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                  bool needs_input) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;
  std::string_view varies_in_training() const override { return "field_dropout"; }

 private:
  std::vector<int64_t> field_;  // of each channel
  int64_t fields_;
  double p_;
};

}  // namespace evariste
