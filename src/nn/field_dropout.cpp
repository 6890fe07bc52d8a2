#include "nn/field_dropout.h"

#include <numeric>

namespace evariste {

FieldDropout::FieldDropout(const FieldType& fields, double p) : fields_(0), p_(p) {
  for (const auto& kind : fields.kinds)
    for (int64_t f = 0; f < kind.count; ++f, ++fields_)
      field_.insert(field_.end(), static_cast<size_t>(kind.representation.size()), fields_);
}

FieldDropout::FieldDropout(int64_t channels, double p)
    : field_(static_cast<size_t>(channels)), fields_(channels), p_(p) {
  std::iota(field_.begin(), field_.end(), 0);
}

Tensor FieldDropout::forward(const Tensor& x, Tape* tape) const {
  if (!is_training() || p_ == 0) return x;
  const auto options = x.options().requires_grad(false);
  const auto kept = (torch::rand({x.size(0), fields_}, options) >= p_).to(x.scalar_type());
  std::vector<int64_t> shape(static_cast<size_t>(x.dim()), 1);
  shape[0] = x.size(0), shape[1] = x.size(1);
  const auto mask = (kept / (1 - p_))
                        .index_select(1, torch::tensor(field_, options.dtype(torch::kLong)))
                        .view(shape);
  if (tape) tape->aux = mask;
  return x * mask;
}

Tensor FieldDropout::backward(const Tensor& g, const Tape& tape, const Sink&, bool) const {
  return tape.aux.defined() ? g * tape.aux : g;
}

Tensor FieldDropout::jvp(const Tensor& dx, const Tape& tape, const Tangents&) const {
  return dx.defined() && tape.aux.defined() ? dx * tape.aux : dx;
}

}  // namespace evariste
