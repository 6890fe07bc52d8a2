#include "nn/field_restriction.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

#include "core/error.h"
#include "nn/field_basis.h"

namespace evariste {
namespace {

constexpr double kSame = 1e-8;

/// One field of the subgroup inside one of the group.
struct Piece {
  FieldType::Kind kind;  // count: of pieces of this kind
  Matrix rows;           // [count size, d]
};

bool are_equal(const Representation& a, const Representation& b) {
  const auto generators = a.group().generators();
  return a.size() == b.size() &&
         std::all_of(generators.begin(), generators.end(), [&](const Element& g) {
           return (a.at(g) - b.at(g)).cwiseAbs().maxCoeff() < kSame;
         });
}

/// The elements that leave channel b of a permutation where it is.
std::vector<Element> stabiliser(const Representation& rho, int b) {
  std::vector<Element> out;
  for (const auto& h : rho.group().elements())
    if (std::abs(rho.at(h)(b, b) - 1) < kSame) out.push_back(h);
  return out;
}

/// The channels in the order in which `named` has them, if rho is that permutation of cosets: the
/// first of them is b.
std::optional<std::vector<int>> ordered_as(const Representation& rho, const Representation& named,
                                           int b) {
  if (named.size() != rho.size()) return std::nullopt;
  std::vector<int> order(static_cast<size_t>(rho.size()), -1);
  for (const auto& h : rho.group().elements()) {
    Eigen::Index to = 0, from = 0;
    named.at(h).col(0).maxCoeff(&to);
    rho.at(h).col(b).maxCoeff(&from);
    auto& place = order[static_cast<size_t>(to)];
    if (place >= 0 && place != from) return std::nullopt;
    place = static_cast<int>(from);
  }
  for (const auto& g : rho.group().generators())
    if ((Matrix(rho.at(g)(order, order)) - named.at(g)).cwiseAbs().maxCoeff() > kSame)
      return std::nullopt;
  return order;
}

/// Channels that the subgroup permutes, none apart from the others.
Piece permuted(const Component& part, int channels, const std::string& origin) {
  const auto& rho = part.representation;
  const auto& group = rho.group_ptr();
  const auto piece = [&](const std::string& name, const Representation& named,
                         const std::vector<int>& order) {
    Matrix rows = Matrix::Zero(rho.size(), channels);
    for (int i = 0; i < rho.size(); ++i)
      rows(i, part.channels[static_cast<size_t>(order[static_cast<size_t>(i)])]) = 1;
    return Piece{{name, named, 1}, rows};
  };
  if (rho.size() == 1) return piece("trivial", trivial_representation(group), {0});
  if (rho.size() == group->order()) {
    const auto regular = regular_representation(group);
    if (const auto order = ordered_as(rho, regular, 0)) return piece("regular", regular, *order);
  }
  for (const auto& found : subgroups(*group)) {
    if (found->order() * rho.size() != group->order()) continue;
    const auto named = make_group(found->name(), group->dimension());
    if (!is_subgroup(*named, *group)) continue;  // a name has not all digits of an axis
    const auto cosets = quotient_representation(group, *named);
    for (int b = 0; b < rho.size(); ++b) {
      const auto fixed = stabiliser(rho, b);
      if (!std::all_of(fixed.begin(), fixed.end(),
                       [&](const Element& h) { return named->contains(h); }))
        continue;
      if (const auto order = ordered_as(rho, cosets, b))
        return piece("/" + named->name(), cosets, *order);
    }
  }
  std::vector<int> all(static_cast<size_t>(rho.size()));
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int>(i);
  return piece(fmt::format("channels {} of {}", fmt::join(part.channels, " "), origin), rho, all);
}

/// Fields of irreps, in the order of the representation's.
void add_irreps(const Component& part, int channels, std::vector<Piece>& pieces) {
  const auto& rho = part.representation;
  for (size_t i = 0; i < rho.irreps().size(); ++i) {
    const auto& irrep = rho.irreps()[i];
    Matrix rows = Matrix::Zero(irrep.size, channels);
    for (int c = 0; c < rho.size(); ++c)
      rows.col(part.channels[static_cast<size_t>(c)]) =
          rho.basis().block(c, rho.offset(i), 1, irrep.size).transpose();
    const auto name = irrep.is_trivial ? std::string("trivial") : irrep.name;
    pieces.push_back({{name,
                       irrep.is_trivial ? trivial_representation(rho.group_ptr())
                                        : irrep_representation(rho.group_ptr(), irrep.name),
                       1},
                      rows});
  }
}

/// Those of one kind together, in the order of their first.
std::vector<Piece> gathered(const std::vector<Piece>& pieces) {
  std::vector<Piece> out;
  for (const auto& piece : pieces) {
    const auto same = std::find_if(out.begin(), out.end(), [&](const Piece& other) {
      return other.kind.name == piece.kind.name;
    });
    if (same == out.end()) {
      out.push_back(piece);
      continue;
    }
    Matrix rows(same->rows.rows() + piece.rows.rows(), piece.rows.cols());
    rows << same->rows, piece.rows;
    same->rows = rows;
    ++same->kind.count;
  }
  return out;
}

/// Irreps as a whole number of fields `name`, "<L", if they are that.
std::optional<Piece> spectral(const std::vector<Piece>& pieces, const GroupPtr& group,
                              const std::string& name) {
  int band = -1;
  if (name.empty() || name[0] != '<') return std::nullopt;
  const auto* const last = name.data() + name.size();
  if (std::from_chars(name.data() + 1, last, band).ptr != last || band < 0) return std::nullopt;
  const auto one = spectral_regular_representation(group, band);
  const auto channels = pieces[0].rows.cols();
  if (one.size() < 2 || channels % one.size() != 0) return std::nullopt;
  Matrix rows(channels, channels);
  std::vector<bool> is_used(pieces.size(), false);
  Eigen::Index row = 0;
  while (row < channels)
    for (const auto& irrep : one.irreps()) {
      size_t i = 0;
      const auto wanted = irrep.is_trivial ? std::string("trivial") : irrep.name;
      while (i < pieces.size() && (is_used[i] || pieces[i].kind.name != wanted)) ++i;
      if (i == pieces.size()) return std::nullopt;
      is_used[i] = true;
      rows.middleRows(row, pieces[i].rows.rows()) = pieces[i].rows;
      row += pieces[i].rows.rows();
    }
  return Piece{{name, one, channels / one.size()}, rows};
}

std::vector<Piece> pieces_of(const FieldType::Kind& kind, const GroupPtr& subgroup) {
  const auto rho = restricted(kind.representation, subgroup);
  const auto origin = fmt::format("{} of {}", kind.name, kind.representation.group().name());
  if (kind.representation.group().name() == subgroup->name())
    return {{{kind.name, rho, 1}, Matrix::Identity(rho.size(), rho.size())}};
  std::vector<Piece> pieces;
  for (const auto& part : disentangled(rho)) {
    if (part.representation.is_permutation())
      pieces.push_back(permuted(part, rho.size(), origin));
    else
      add_irreps(part, rho.size(), pieces);
  }
  if (const auto whole = spectral(pieces, subgroup, kind.name)) return {*whole};
  return gathered(pieces);
}

}  // namespace

Restriction restricted(const FieldType& fields, const GroupPtr& subgroup) {
  Restriction out{{subgroup, {}}, {}, {}};
  int64_t first = 0;
  for (const auto& kind : fields.kinds) {
    const auto channels = kind.representation.size();
    Matrix basis(channels, channels);
    Eigen::Index row = 0;
    for (const auto& piece : pieces_of(kind, subgroup)) {
      const auto size = piece.rows.rows();
      basis.middleRows(row, size) = piece.rows;
      for (int64_t f = 0; f < kind.count; ++f)
        for (Eigen::Index i = 0; i < size; ++i)
          out.places.push_back(first + f * channels + row + i);
      row += size;
      auto& kinds = out.fields.kinds;
      const auto count = kind.count * piece.kind.count;
      if (!kinds.empty() && kinds.back().name == piece.kind.name &&
          are_equal(kinds.back().representation, piece.kind.representation))
        kinds.back().count += count;
      else
        kinds.push_back({piece.kind.name, piece.kind.representation, count});
    }
    out.bases.push_back(basis);
    first += kind.channels();
  }
  return out;
}

FieldRestriction::FieldRestriction(const FieldType& fields, const GroupPtr& subgroup)
    : FieldRestriction(fields, restricted(fields, subgroup)) {}

FieldRestriction::FieldRestriction(const FieldType& fields, Restriction restriction)
    : out_(std::move(restriction.fields)) {
  for (size_t k = 0; k < fields.kinds.size(); ++k) {
    counts_.push_back(fields.kinds[k].count);
    bases_.push_back(register_buffer(fmt::format("basis_{}", k), as_tensor(restriction.bases[k])));
  }
  order_ = register_buffer("basis_order", torch::tensor(restriction.places, torch::kInt64));
}

void FieldRestriction::prepare() const {
  std::vector<std::pair<const void*, int64_t>> key;
  for (const auto& basis : bases_) key.emplace_back(basis.const_data_ptr(), basis._version());
  key.emplace_back(order_.const_data_ptr(), order_._version());
  if (key == prepared_for_) return;
  torch::NoGradGuard no_grad;
  std::vector<Tensor> blocks;
  for (size_t k = 0; k < bases_.size(); ++k)
    blocks.insert(blocks.end(), static_cast<size_t>(counts_[k]), bases_[k].to(torch::kFloat64));
  const auto matrix = torch::block_diag(blocks).index_select(0, order_.to(torch::kInt64));
  const auto from = matrix.argmax(1);
  const bool is_permutation =
      torch::equal(matrix, torch::one_hot(from, matrix.size(1)).to(matrix.scalar_type()));
  from_ = is_permutation ? from : Tensor();
  matrix_ = is_permutation ? Tensor() : matrix;
  prepared_for_ = std::move(key);
}

namespace {

/// Channels [n, C, ...] by a matrix [C, C].
Tensor by_matrix(const Tensor& matrix, const Tensor& x) {
  const auto m = matrix.to(x.options().requires_grad(false));
  if (x.dim() == 2) return x.mm(m.t());
  const auto axes = static_cast<size_t>(x.dim() - 2);
  std::vector<int64_t> shape(axes + 2, 1), ones(axes, 1), zeros(axes, 0);
  shape[0] = shape[1] = m.size(0);
  return at::convolution(x, m.reshape(shape), {}, ones, zeros, ones, false, zeros, 1);
}

}  // namespace

Tensor FieldRestriction::forward(const Tensor& x, Tape*) const {
  prepare();
  return from_.defined() ? x.index_select(1, from_) : by_matrix(matrix_, x);
}

Tensor FieldRestriction::jvp(const Tensor& dx, const Tape&, const Tangents&) const {
  return dx.defined() ? unfold(forward(fold(dx), nullptr), dx.size(0)) : dx;
}

Tensor FieldRestriction::transpose(const Tensor& g, const Tape&) const {
  prepare();
  return from_.defined() ? g.index_select(1, from_.argsort()) : by_matrix(matrix_.t(), g);
}

}  // namespace evariste
