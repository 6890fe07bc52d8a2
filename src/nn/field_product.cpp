#include "nn/field_product.h"

#include "groups/symmetric_square.h"
#include "nn/field_basis.h"

namespace evariste {
namespace {

/// Channels of a kind that lie in `dimension`: [.., fields, size, pixels].
Tensor apart(const Tensor& x, int64_t dimension, int64_t first, int64_t fields, int64_t size) {
  auto shape = x.sizes().vec();
  shape.resize(static_cast<size_t>(dimension));
  shape.insert(shape.end(), {fields, size, -1});
  return x.narrow(dimension, first, fields * size).reshape(shape);
}

/// Back to [.., channels, pixels...] as x has them.
Tensor together(const Tensor& y, int64_t dimension, const Tensor& x) {
  auto shape = y.sizes().vec();
  shape.resize(static_cast<size_t>(dimension));
  shape.push_back(y.size(dimension) * y.size(dimension + 1));
  for (int64_t axis = 2; axis < x.dim(); ++axis) shape.push_back(x.size(axis));
  return y.reshape(shape);
}

/// Rows of the pairs (0, 0), (0, 1) ... (1, 1), (1, 2) ...: first and second, [pairs].
std::pair<Tensor, Tensor> pairs_of(int64_t size, const Tensor& like) {
  const auto both =
      torch::triu_indices(size, size, 0, like.options().requires_grad(false).dtype(torch::kLong));
  return {both[0], both[1]};
}

}  // namespace

FieldProduct::FieldProduct(const FieldType& fields, bool keep)
    : out_{fields.group, {}}, keep_(keep), channels_(fields.channels()) {
  if (keep) out_ = fields;
  int64_t first = 0;
  for (const auto& kind : fields.kinds) {
    const int64_t size = kind.representation.size();
    auto square = symmetric_square(kind.representation);
    const auto basis =
        register_buffer(fmt::format("basis_{}", kinds_.size()), as_tensor(square.coefficients));
    kinds_.push_back({first, kind.count, size, basis});
    const bool is_sum = kind.name.find('+') != std::string::npos;
    const auto name = size == 1 ? std::string("trivial")
                                : fmt::format(fmt::runtime(is_sum ? "[{}]^2" : "{}^2"), kind.name);
    out_.kinds.push_back({name, std::move(square.representation), kind.count});
    first += kind.channels();
  }
}

Tensor FieldProduct::forward(const Tensor& x, Tape* tape) const {
  if (tape) tape->x = x;
  std::vector<Tensor> parts;
  if (keep_) parts.push_back(x);
  for (const auto& kind : kinds_) {
    const auto [a, b] = pairs_of(kind.size, x);
    const auto v = apart(x, 1, kind.first, kind.fields, kind.size);
    const auto basis = kind.basis.to(x.options().requires_grad(false));
    parts.push_back(together(basis.matmul(v.index_select(2, a) * v.index_select(2, b)), 1, x));
  }
  const auto y = parts.size() == 1 ? parts[0] : torch::cat(parts, 1);
  return x.dim() == 4 ? y.contiguous(x.suggest_memory_format()) : y;
}

Tensor FieldProduct::backward(const Tensor& g, const Tape& tape, const Sink& sink,
                              bool needs_input) const {
  if (sink.bend) sink.bend(*this, tape, g);
  if (!needs_input) return Tensor();
  const auto& x = tape.x;
  std::vector<Tensor> parts;
  int64_t at = keep_ ? channels_ : 0;
  for (const auto& kind : kinds_) {
    const auto [a, b] = pairs_of(kind.size, x);
    const auto v = apart(x, 1, kind.first, kind.fields, kind.size);
    const auto basis = kind.basis.to(x.options().requires_grad(false));
    const auto of_pairs = basis.t().matmul(apart(g, 2, at, kind.fields, kind.pairs()));
    auto shape = of_pairs.sizes().vec();
    shape[3] = kind.size;
    auto dv = torch::zeros(shape, g.options());
    dv.index_add_(3, a, of_pairs * v.index_select(2, b));
    dv.index_add_(3, b, of_pairs * v.index_select(2, a));
    parts.push_back(together(dv, 2, x));
    at += kind.fields * kind.pairs();
  }
  const auto dx = parts.size() == 1 ? parts[0] : torch::cat(parts, 2);
  return keep_ ? dx + g.narrow(2, 0, channels_) : dx;
}

Tensor FieldProduct::jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const {
  if (!dx.defined()) return dx;
  if (tangents.bend) tangents.bend(*this, tape, dx);
  const auto& x = tape.x;
  std::vector<Tensor> parts;
  if (keep_) parts.push_back(dx);
  for (const auto& kind : kinds_) {
    const auto [a, b] = pairs_of(kind.size, x);
    const auto v = apart(x, 1, kind.first, kind.fields, kind.size);
    const auto dv = apart(dx, 2, kind.first, kind.fields, kind.size);
    const auto basis = kind.basis.to(x.options().requires_grad(false));
    parts.push_back(together(basis.matmul(dv.index_select(3, a) * v.index_select(2, b) +
                                          v.index_select(2, a) * dv.index_select(3, b)),
                             2, x));
  }
  return parts.size() == 1 ? parts[0] : torch::cat(parts, 2);
}

}  // namespace evariste
