#include "nn/field_norm.h"

#include "core/error.h"

namespace evariste {

FieldNorm::FieldNorm(const FieldType& fields, const std::vector<int64_t>& shape, double epsilon,
                     bool affine, double momentum) {
  if (!fields.is_permutation())
    throw UsageError(fmt::format(
        "batchnorm does not commute with {}, which is not made of permutations", fields.text()));
  const auto pixels = c10::multiply_integers(shape.begin() + 1, shape.end());
  int64_t first = 0;
  for (const auto& kind : fields.kinds) {
    const std::vector<int64_t> own = {kind.count, kind.representation.size() * pixels};
    auto norm = std::make_shared<Norm>(Norm::Kind::kBatch, own, 1, epsilon, affine, momentum);
    register_module(std::to_string(kinds_.size()), norm);
    kinds_.push_back({first, kind.channels(), kind.count, norm});
    first += kind.channels();
  }
}

Tensor FieldNorm::apart(const Tensor& x, const Kind& kind, int64_t dimension) {
  auto shape = x.sizes().vec();
  shape.resize(static_cast<size_t>(dimension) + 2);
  shape[static_cast<size_t>(dimension)] = kind.fields;
  shape.back() = -1;
  return x.narrow(dimension, kind.first, kind.channels).reshape(shape);
}

namespace {

/// [.., fields, rest] -> [.., channels, pixels...] as `like` has them behind the dimension.
Tensor together(const Tensor& y, int64_t channels, int64_t dimension, const Tensor& x,
                int64_t dimension_of_x) {
  auto shape = y.sizes().vec();
  shape.resize(static_cast<size_t>(dimension));
  shape.push_back(channels);
  for (int64_t axis = dimension_of_x + 1; axis < x.dim(); ++axis) shape.push_back(x.size(axis));
  return y.reshape(shape);
}

}  // namespace

Tensor FieldNorm::forward(const Tensor& x, Tape* tape) const {
  if (tape) {
    tape->x = x;
    tape->children.resize(kinds_.size());
  }
  std::vector<Tensor> parts;
  for (size_t k = 0; k < kinds_.size(); ++k) {
    const auto y =
        kinds_[k].norm->forward(apart(x, kinds_[k], 1), tape ? &tape->children[k] : nullptr);
    parts.push_back(together(y, kinds_[k].channels, 1, x, 1));
  }
  const auto y = parts.size() == 1 ? parts[0] : torch::cat(parts, 1);
  return x.dim() == 4 ? y.contiguous(x.suggest_memory_format()) : y;
}

Tensor FieldNorm::backward(const Tensor& g, const Tape& tape, const Sink& sink,
                           bool needs_input) const {
  std::vector<Tensor> parts;
  for (size_t k = 0; k < kinds_.size(); ++k) {
    const auto dx =
        kinds_[k].norm->backward(apart(g, kinds_[k], 2), tape.children[k], sink, needs_input);
    if (needs_input) parts.push_back(together(dx, kinds_[k].channels, 2, g, 2));
  }
  return needs_input ? torch::cat(parts, 2) : Tensor();
}

Tensor FieldNorm::jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const {
  std::vector<Tensor> parts;
  int64_t folds = 0;
  for (size_t k = 0; k < kinds_.size(); ++k) {
    auto dy = kinds_[k].norm->jvp(dx.defined() ? apart(dx, kinds_[k], 2) : dx, tape.children[k],
                                  tangents);
    if (dy.defined()) {
      folds = dy.size(0);
      dy = together(dy, kinds_[k].channels, 2, tape.x, 1);
    }
    parts.push_back(dy);
  }
  if (folds == 0) return Tensor();
  for (size_t k = 0; k < kinds_.size(); ++k) {
    if (parts[k].defined()) continue;
    auto shape = tape.x.sizes().vec();
    shape[1] = kinds_[k].channels;
    shape.insert(shape.begin(), folds);
    parts[k] = torch::zeros(shape, tape.x.options());
  }
  return torch::cat(parts, 2);
}

void FieldNorm::visit_blocks(const std::function<void(Block&)>& visit) {
  for (const auto& kind : kinds_) kind.norm->visit_blocks(visit);
}

}  // namespace evariste
