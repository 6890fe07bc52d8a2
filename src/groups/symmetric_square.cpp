#include "groups/symmetric_square.h"

#include <cmath>
#include <map>

#include "core/expect.h"

namespace evariste {
namespace {

constexpr int kLargest = 64;  // channels of a field: a matrix of 2080 x 2080

/// psi (x) psi on symmetric tensors, decomposed; tensors [size^2, size (size + 1)/2]: the irreps'
/// basis as tensors, orthonormal columns, the second index running fastest.
Representation symmetric_part(const GroupPtr& group, const Irrep& psi, Matrix& tensors) {
  const int size = psi.size, pairs = size * (size + 1) / 2;
  Matrix symmetric = Matrix::Zero(size * size, pairs);  // orthonormal columns
  int pair = 0;
  for (int a = 0; a < size; ++a)
    for (int b = a; b < size; ++b, ++pair)
      symmetric(a * size + b, pair) = symmetric(b * size + a, pair) = a == b ? 1 : std::sqrt(0.5);
  const auto rho = [&](const Element& g) {
    const Matrix matrix = psi.at(g);
    Matrix moved(size * size, pairs);
    for (int p = 0; p < pairs; ++p) {
      const Vector column = symmetric.col(p);
      const Matrix tensor = matrix * Eigen::Map<const Matrix>(column.data(), size, size) *
                            matrix.transpose();  // symmetric: rows first or columns first
      moved.col(p) = Eigen::Map<const Vector>(tensor.data(), size * size);
    }
    return Matrix(symmetric.transpose() * moved);
  };
  auto out = decomposed(group, pairs, rho, 2 * psi.frequency);
  tensors = symmetric * out.basis();
  return out;
}

}  // namespace

SymmetricSquare symmetric_square(const Representation& rho) {
  const auto& irreps = rho.irreps();
  const auto& group = rho.group_ptr();
  const int size = rho.size(), pairs = size * (size + 1) / 2;
  if (size > kLargest)
    throw UsageError(fmt::format(
        "the square of a field of {} channels has {} of them: expected one of at most {}", size,
        pairs, kLargest));
  struct Product {
    std::vector<Irrep> irreps;
    Matrix tensors;
  };
  std::map<std::pair<std::string, std::string>, Product> known;  // of different irreps
  std::map<std::string, Product> squares;
  std::vector<Irrep> found;
  Matrix coefficients(pairs, pairs);
  int row = 0;
  for (size_t i = 0; i < irreps.size(); ++i)
    for (size_t j = i; j < irreps.size(); ++j) {
      auto& product = i == j ? squares[irreps[i].name] : known[{irreps[i].name, irreps[j].name}];
      if (product.irreps.empty()) {
        if (i == j) {
          product.irreps = symmetric_part(group, irreps[i], product.tensors).irreps();
        } else {
          const auto both = tensor_product(group, irreps[i], irreps[j]);
          product.irreps = both.irreps();
          product.tensors = std::sqrt(2.0) * both.basis();  // x_i (x) x_j and x_j (x) x_i
        }
      }
      found.insert(found.end(), product.irreps.begin(), product.irreps.end());
      const auto rows = irreps[i].size, columns = irreps[j].size;
      for (Eigen::Index e = 0; e < product.tensors.cols(); ++e, ++row) {
        const Vector tensor = product.tensors.col(e);
        const Matrix quadratic =
            rho.basis().middleCols(rho.offset(i), rows) *
            Eigen::Map<const Matrix>(tensor.data(), columns, rows).transpose() *
            rho.basis().middleCols(rho.offset(j), columns).transpose();
        int pair = 0;
        for (int a = 0; a < size; ++a)
          for (int b = a; b < size; ++b, ++pair)
            coefficients(row, pair) = a == b ? quadratic(a, a) : quadratic(a, b) + quadratic(b, a);
      }
    }
  return {Representation(group, std::move(found)), std::move(coefficients)};
}

}  // namespace evariste
