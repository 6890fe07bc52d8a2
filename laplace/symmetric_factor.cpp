#include "laplace/symmetric_factor.h"

#include <cmath>

#include "core/error.h"
#include "laplace/gram.h"

namespace evariste {
namespace {

/// Per dimension. Not the rounding of the decomposition: the sums of a float32 network carry
/// float32 rounding, whatever they are decomposed in.
constexpr double kNegativeTolerance = 10 * 1.2e-7;

struct Eigenpairs {
  Tensor values, vectors;
};

Eigenpairs solve(const Tensor& matrix, bool vectors) {
  Eigenpairs pairs;
  try {
    if (vectors) {
      std::tie(pairs.values, pairs.vectors) = at::linalg_eigh(matrix, "L");
    } else {
      pairs.values = at::linalg_eigvalsh(matrix, "L");
    }
  } catch (const c10::Error&) {  // LAPACK did not converge
    return {};
  }
  if (!at::isfinite(pairs.values).all().item<bool>()) return {};
  return pairs;
}

/// Ascending eigenvalues, rounding below zero removed.
Eigenpairs positive_eigenpairs(const Tensor& matrix, bool vectors, torch::ScalarType arithmetic,
                               std::string_view what) {
  if (!at::isfinite(matrix).all().item<bool>())
    throw NumericalError(fmt::format("{}: the curvature factor has NaN or infinite entries", what));
  const auto symmetric = 0.5 * (matrix + matrix.transpose(1, 2));
  auto pairs = solve(symmetric.to(arithmetic), vectors);
  if (!pairs.values.defined()) {
    arithmetic = torch::kFloat64;
    pairs = solve(symmetric, vectors);
  }
  if (!pairs.values.defined())
    throw NumericalError(fmt::format("{}: the eigenvalues of the factor did not converge", what));
  const auto largest = pairs.values.abs().amax().item<double>();
  const auto smallest = pairs.values.min().item<double>();
  if (smallest < -kNegativeTolerance * static_cast<double>(matrix.size(1)) * largest)
    throw NumericalError(fmt::format("{}: the factor is indefinite, eigenvalues {:.3g} ... {:.3g}",
                                     what, smallest, largest));
  pairs.values = pairs.values.clamp_min(0).to(torch::kFloat64).contiguous();
  return pairs;
}

}  // namespace

Tensor SymmetricFactor::traces() const {
  if (matrix.defined()) return matrix.diagonal(0, 1, 2).sum(1);
  return rows.defined() ? rows.square().sum({1, 2}) : values.sum(1);
}

Tensor SymmetricFactor::dense() const {
  if (matrix.defined()) return matrix;
  if (rows.defined()) return gram(rows);
  const auto columns = basis.to(torch::kFloat64);
  return (columns * values.unsqueeze(1)).matmul(columns.transpose(1, 2));
}

SymmetricFactor SymmetricFactor::times(double scale) const {
  SymmetricFactor out;
  if (matrix.defined()) out.matrix = scale == 1 ? matrix : scale * matrix;
  if (rows.defined()) out.rows = scale == 1 ? rows : std::sqrt(scale) * rows;
  return out;
}

bool SymmetricFactor::is_same(const SymmetricFactor& other) const {
  return matrix.defined() ? matrix.is_same(other.matrix)
                          : rows.defined() && rows.is_same(other.rows);
}

void SymmetricFactor::decompose(bool vectors, torch::ScalarType arithmetic, std::string_view what) {
  if (values.defined() && (!vectors || basis.defined())) return;
  if (matrix.defined()) {
    auto pairs = positive_eigenpairs(matrix, vectors, arithmetic, what);
    values = pairs.values;
    // LAPACK's column order changes the rounding of products; saved and loaded it would be lost.
    if (vectors) basis = pairs.vectors.contiguous();
    return;
  }
  if (vectors && arithmetic == torch::kFloat32 && 2 * rows.size(1) > rows.size(2)) {
    // Nearly as many rows as dimensions: S itself, in float32. Its values are off by rounding of
    // the largest, zeros upwards alone; |rows u|^2 has the error of u to the second order only.
    const auto narrow = rows.to(arithmetic);
    auto pairs = positive_eigenpairs(gram(narrow), true, arithmetic, what);
    const auto squares =
        narrow.matmul(pairs.vectors.to(arithmetic)).square().sum({1}, false, torch::kFloat64);
    const auto order = squares.argsort(int64_t{1});
    values = squares.gather(1, order);
    basis = pairs.vectors.gather(2, order.unsqueeze(1).expand_as(pairs.vectors)).contiguous();
    return;
  }
  // With vectors in float64 whatever is asked for: the columns below divide by the roots of small
  // values, and those that rounding has reached are lost, in float32 with a part of log|P|.
  auto pairs = positive_eigenpairs(gram(rows.transpose(1, 2)), vectors,
                                   vectors ? torch::kFloat64 : arithmetic, what);
  values = pairs.values;
  if (!vectors) return;
  // Columns of rows^T U / sqrt(value). Directions of (numerically) no value have no column of
  // length one: they are set to zero, and so is their eigenvalue.
  constexpr double kRounding = 2.2e-16;
  const auto floor = values.amax(1, true) * (kRounding * static_cast<double>(values.size(1)) * 10);
  const auto keep = values > floor;
  values = torch::where(keep, values, torch::zeros_like(values));
  const auto inverse_root =
      torch::where(keep, values.clamp_min(1e-300).rsqrt(), torch::zeros_like(values));
  const auto columns = rows.transpose(1, 2).matmul(pairs.vectors);
  basis = (columns * inverse_root.unsqueeze(1)).to(arithmetic);
}

bool SymmetricFactor::keep_basis(const Tensor& u, double tolerance) {
  if (!matrix.defined() || u.sizes() != matrix.sizes()) return false;
  const auto seen = u.transpose(1, 2).matmul(matrix.to(u.scalar_type())).matmul(u);
  const auto diagonal = seen.diagonal(0, 1, 2).to(torch::kFloat64);  // [Q, D]
  const auto outside = (seen - torch::diag_embed(seen.diagonal(0, 1, 2))).flatten(1).norm(2, 1);
  const auto whole = seen.flatten(1).norm(2, 1);
  if (!(outside <= tolerance * whole).all().item<bool>()) return false;  // NaN neither
  values = diagonal.clamp_min(0).contiguous();
  basis = u;
  return true;
}

void FactorSum::add_rows(const Tensor& rows) { rows_.push_back(rows.to(torch::kFloat64)); }

void FactorSum::add_gram(const Tensor& gram) {
  if (gram_.defined()) {
    gram_ += gram;
  } else {
    gram_ = gram.to(torch::kFloat64).clone();
  }
}

Tensor& FactorSum::as_gram() {
  if (!products_.is_empty()) add_gram(products_.total());
  products_ = GramSum();
  for (const auto& rows : rows_) add_gram(gram(rows));
  rows_.clear();
  return gram_;
}

SymmetricFactor FactorSum::finish(double scale) {
  if (!products_.is_empty()) add_gram(products_.total());
  products_ = GramSum();
  SymmetricFactor factor;
  if (gram_.defined()) {
    factor.matrix = gram_.mul_(scale);
    gram_.reset();
  } else {
    factor.rows = std::sqrt(scale) * torch::cat(rows_, 1);
  }
  return factor;
}

}  // namespace evariste
