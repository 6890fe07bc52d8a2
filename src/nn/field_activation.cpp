#include "nn/field_activation.h"

#include <algorithm>

#include "core/error.h"
#include "groups/fourier.h"
#include "nn/field_basis.h"

namespace evariste {
namespace {

/// L of a field "<L"; throws UsageError for others.
int band_of(const FieldType::Kind& kind, const GroupPtr& group) {
  int band = 0;
  for (const auto& irrep : kind.representation.irreps()) band = std::max(band, irrep.frequency);
  const auto whole = spectral_regular_representation(group, band);
  const auto& found = kind.representation.irreps();
  const bool is_whole = kind.representation.has_identity_basis() &&
                        found.size() == whole.irreps().size() &&
                        std::equal(found.begin(), found.end(), whole.irreps().begin(),
                                   [](const Irrep& a, const Irrep& b) { return a.name == b.name; });
  if (!is_whole)
    throw UsageError(
        fmt::format("{} fields are no functions on {} by their coefficients: expected "
                    "\"<L\" or trivial",
                    kind.name, group->name()));
  return band;
}

}  // namespace

FieldTransform::FieldTransform(const std::vector<int64_t>& fields, const std::vector<Tensor>& bases)
    : fields_(fields) {
  for (size_t k = 0; k < bases.size(); ++k)
    bases_.push_back(register_buffer(fmt::format("basis_{}", k), bases[k]));
}

Tensor FieldTransform::map(const Tensor& x, bool transposed) const {
  std::vector<Tensor> parts;
  int64_t first = 0;
  if (x.dim() == 4 && x.is_contiguous(at::MemoryFormat::ChannelsLast)) {
    // The channels of a field lie side by side: one product for all pixels and fields.
    const auto pixels = x.permute({0, 2, 3, 1});
    auto shape = pixels.sizes().vec();
    for (size_t k = 0; k < bases_.size(); ++k) {
      const auto basis = bases_[k].to(x.options().requires_grad(false));
      const auto matrix = transposed ? basis.t() : basis;  // [e, d]
      const auto channels = fields_[k] * matrix.size(1);
      shape[3] = fields_[k] * matrix.size(0);
      parts.push_back(pixels.narrow(3, first, channels)
                          .reshape({-1, matrix.size(1)})
                          .mm(matrix.t())
                          .view(shape));
      first += channels;
    }
    return (parts.size() == 1 ? parts[0] : torch::cat(parts, 3)).permute({0, 3, 1, 2});
  }
  for (size_t k = 0; k < bases_.size(); ++k) {
    const auto basis = bases_[k].to(x.options().requires_grad(false));
    const auto matrix = transposed ? basis.t() : basis;
    const auto channels = fields_[k] * matrix.size(1);
    const auto part = x.narrow(1, first, channels);
    auto shape = part.sizes().vec();
    shape[1] = fields_[k] * matrix.size(0);
    parts.push_back(
        matrix.matmul(part.reshape({x.size(0), fields_[k], matrix.size(1), -1})).view(shape));
    first += channels;
  }
  const auto y = parts.size() == 1 ? parts[0] : torch::cat(parts, 1);
  return x.dim() == 4 ? y.contiguous(x.suggest_memory_format()) : y;
}

Tensor FieldTransform::forward(const Tensor& x, Tape*) const { return map(x, false); }

Tensor FieldTransform::jvp(const Tensor& dx, const Tape&, const Tangents&) const {
  return dx.defined() ? unfold(map(fold(dx), false), dx.size(0)) : dx;
}

Tensor FieldTransform::transpose(const Tensor& g, const Tape&) const { return map(g, true); }

FourierActivation::FourierActivation(const FieldType& fields, std::string_view kind,
                                     int64_t samples) {
  std::vector<int64_t> counts;
  std::vector<Tensor> there, back;
  for (const auto& each : fields.kinds) {
    counts.push_back(each.count);
    if (each.is_trivial()) {
      there.push_back(torch::ones({1, 1}, torch::kFloat64));
      back.push_back(there.back());
      continue;
    }
    const int band = band_of(each, fields.group);
    const int64_t least = 2 * band + 1, nodes = samples > 0 ? samples : 4 * ((least + 1) / 2);
    if (nodes < least)
      throw UsageError(fmt::format("samples: expected at least {} for {} fields, found {}", least,
                                   each.name, nodes));
    const auto quadrature = fields.group->quadrature(static_cast<int>(nodes) - 1);
    const auto values = fourier_matrix(*fields.group, band, quadrature.nodes);
    there.push_back(as_tensor(values));
    back.push_back(as_tensor(values.transpose() * quadrature.weights.asDiagonal()));
  }
  append(std::make_shared<FieldTransform>(counts, there));
  append(std::make_shared<Activation>(kind));
  append(std::make_shared<FieldTransform>(counts, back));
}

GatedActivation::GatedActivation(const FieldType& fields, std::string_view kind)
    : out_{fields.group, {}}, channels_(fields.channels()), activation_(kind) {
  int64_t first = 0, gates = 0;
  for (const auto& each : fields.kinds) {
    auto& ranges = each.is_trivial() ? trivial_ : gated_;
    ranges.push_back({first, each.count, each.representation.size()});
    (each.is_trivial() ? kept_ : gates) += each.count;
    first += each.channels();
  }
  if (gates == 0 || kept_ < gates)
    throw UsageError(fmt::format(
        "expected fields, and for each a trivial channel as its gate, found {}", fields.text()));
  kept_ -= gates;
  if (kept_ > 0) out_ = FieldType::trivial(fields.group, kept_);
  for (const auto& each : fields.kinds)
    if (!each.is_trivial()) out_.kinds.push_back(each);
}

Tensor GatedActivation::scalars(const Tensor& x, int64_t dimension) const {
  std::vector<Tensor> parts;
  for (const auto& range : trivial_)
    parts.push_back(x.narrow(dimension, range.first, range.channels()));
  return parts.size() == 1 ? parts[0] : torch::cat(parts, dimension);
}

Tensor GatedActivation::forward(const Tensor& x, Tape* tape) const {
  if (tape) {
    tape->x = x;
    tape->children.resize(1);
  }
  const auto numbers = scalars(x, 1);
  std::vector<Tensor> parts;
  if (kept_ > 0)
    parts.push_back(
        activation_.forward(numbers.narrow(1, 0, kept_), tape ? &tape->children[0] : nullptr));
  int64_t gate = kept_;
  for (const auto& range : gated_) {
    const auto open = numbers.narrow(1, gate, range.fields).sigmoid().unsqueeze(2);
    const auto each =
        x.narrow(1, range.first, range.channels()).unflatten(1, {range.fields, range.size});
    parts.push_back((each * open).flatten(1, 2));
    gate += range.fields;
  }
  return parts.size() == 1 ? parts[0] : torch::cat(parts, 1);
}

Tensor GatedActivation::backward(const Tensor& g, const Tape& tape, const Sink& sink,
                                 bool needs_input) const {
  if (sink.bend) sink.bend(*this, tape, g);
  if (!needs_input) return Tensor();
  const auto numbers = scalars(tape.x, 1);
  std::vector<Tensor> of_numbers;
  if (kept_ > 0)
    of_numbers.push_back(activation_.backward(
        g.narrow(2, 0, kept_), tape.children[0], [](const Block&, const Tensor&, const Tensor&) {},
        true));
  auto shape = tape.x.sizes().vec();
  shape.insert(shape.begin(), g.size(0));
  auto dx = torch::zeros(shape, g.options());
  int64_t gate = kept_, first = kept_;
  for (const auto& range : gated_) {
    const auto open = numbers.narrow(1, gate, range.fields).sigmoid();
    const auto each =
        tape.x.narrow(1, range.first, range.channels()).unflatten(1, {range.fields, range.size});
    const auto own = g.narrow(2, first, range.channels()).unflatten(2, {range.fields, range.size});
    dx.narrow(2, range.first, range.channels()).copy_((own * open.unsqueeze(2)).flatten(2, 3));
    of_numbers.push_back((own * each).sum(3) * open * (1 - open));
    gate += range.fields, first += range.channels();
  }
  const auto all = torch::cat(of_numbers, 2);
  int64_t begin = 0;
  for (const auto& range : trivial_) {
    dx.narrow(2, range.first, range.channels()).copy_(all.narrow(2, begin, range.channels()));
    begin += range.channels();
  }
  return dx;
}

Tensor GatedActivation::jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const {
  if (!dx.defined()) return dx;
  if (tangents.bend) tangents.bend(*this, tape, dx);
  const auto numbers = scalars(tape.x, 1), tangent = scalars(dx, 2);
  std::vector<Tensor> parts;
  if (kept_ > 0)
    parts.push_back(activation_.jvp(tangent.narrow(2, 0, kept_), tape.children[0], Tangents()));
  int64_t gate = kept_;
  for (const auto& range : gated_) {
    const auto open = numbers.narrow(1, gate, range.fields).sigmoid();
    const auto slope = open * (1 - open) * tangent.narrow(2, gate, range.fields);
    const auto each =
        tape.x.narrow(1, range.first, range.channels()).unflatten(1, {range.fields, range.size});
    const auto own =
        dx.narrow(2, range.first, range.channels()).unflatten(2, {range.fields, range.size});
    parts.push_back((own * open.unsqueeze(2) + each * slope.unsqueeze(3)).flatten(2, 3));
    gate += range.fields;
  }
  return parts.size() == 1 ? parts[0] : torch::cat(parts, 2);
}

}  // namespace evariste
