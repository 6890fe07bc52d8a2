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

}  // namespace evariste
