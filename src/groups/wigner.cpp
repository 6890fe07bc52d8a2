#include "groups/wigner.h"

#include <cmath>
#include <complex>

#include "core/expect.h"

namespace evariste {
namespace {

/// Entries of a matrix of degree l by m = -l ... l.
class Centred {
 public:
  Centred(const Matrix& matrix) : matrix_(matrix), l_(static_cast<int>(matrix.rows()) / 2) {}
  double operator()(int m, int n) const { return matrix_(m + l_, n + l_); }

 private:
  const Matrix& matrix_;
  int l_;
};

/// D_l from D_1 and D_{l-1}; u, v, w, P as in the paper's tables.
Matrix next_degree(int l, const Centred& r, const Centred& last) {
  const auto p = [&](int i, int a, int b) {
    if (b == l) return r(i, 1) * last(a, l - 1) - r(i, -1) * last(a, -l + 1);
    if (b == -l) return r(i, 1) * last(a, -l + 1) + r(i, -1) * last(a, l - 1);
    return r(i, 0) * last(a, b);
  };
  Matrix out(2 * l + 1, 2 * l + 1);
  for (int m = -l; m <= l; ++m)
    for (int n = -l; n <= l; ++n) {
      const int size = std::abs(m);
      const double below = std::abs(n) < l ? (l + n) * (l - n) : 2 * l * (2 * l - 1);
      const double u = std::sqrt((l + m) * (l - m) / below);
      const double v = 0.5 * std::sqrt((m == 0 ? 2 : 1) * (l + size - 1) * (l + size) / below) *
                       (m == 0 ? -1 : 1);
      const double w = m == 0 ? 0 : -0.5 * std::sqrt((l - size - 1) * (l - size) / below);
      double value = 0;
      if (u != 0) value += u * p(0, m, n);
      if (m == 0) {
        value += v * (p(1, 1, n) + p(-1, -1, n));
      } else if (m > 0) {
        value += v * (m == 1 ? std::sqrt(2.0) * p(1, 0, n) : p(1, m - 1, n) - p(-1, -m + 1, n));
        if (w != 0) value += w * (p(1, m + 1, n) + p(-1, -m - 1, n));
      } else {
        value += v * (m == -1 ? std::sqrt(2.0) * p(-1, 0, n) : p(1, m + 1, n) + p(-1, -m - 1, n));
        if (w != 0) value += w * (p(1, m - 1, n) - p(-1, -m + 1, n));
      }
      out(m + l, n + l) = value;
    }
  return out;
}

long double factorial(int n) {
  long double out = 1;
  for (int i = 2; i <= n; ++i) out *= i;
  return out;
}

/// <a ma b mb | j m>, Racah's sum; long double keeps it to 1e-16 for degrees up to about 20.
double complex_coefficient(int a, int ma, int b, int mb, int j, int m) {
  if (ma + mb != m || std::abs(ma) > a || std::abs(mb) > b || std::abs(m) > j) return 0;
  const long double front = std::sqrt((2 * j + 1) * factorial(j + a - b) * factorial(j - a + b) *
                                      factorial(a + b - j) / factorial(a + b + j + 1)) *
                            std::sqrt(factorial(j + m) * factorial(j - m) * factorial(a - ma) *
                                      factorial(a + ma) * factorial(b - mb) * factorial(b + mb));
  long double sum = 0;
  for (int k = 0; k <= a + b - j; ++k) {
    const int parts[] = {a + b - j - k, a - ma - k, b + mb - k, j - b + ma + k, j - a - mb + k};
    long double product = factorial(k);
    bool vanishes = false;
    for (const int part : parts) {
      vanishes = vanishes || part < 0;
      if (!vanishes) product *= factorial(part);
    }
    if (!vanishes) sum += (k % 2 ? -1 : 1) / product;
  }
  return static_cast<double>(front * sum);
}

/// Real harmonics in terms of the complex ones with the Condon-Shortley phase: [2 l + 1, 2 l + 1].
Eigen::MatrixXcd to_real(int l) {
  const std::complex<double> i(0, 1);
  const double half = std::sqrt(0.5);
  Eigen::MatrixXcd out = Eigen::MatrixXcd::Zero(2 * l + 1, 2 * l + 1);
  out(l, l) = 1;
  for (int m = 1; m <= l; ++m) {
    const double sign = m % 2 ? -1 : 1;
    out(l + m, l - m) = half, out(l + m, l + m) = sign * half;           // cos m phi
    out(l - m, l - m) = i * half, out(l - m, l + m) = -i * sign * half;  // sin m phi
  }
  return out;
}

}  // namespace

std::vector<Matrix> wigner_matrices(int l, const Element& rotation) {
  if (l < 0) throw UsageError("degree of a harmonic: expected at least 0");
  std::vector<Matrix> out = {Matrix::Ones(1, 1)};
  if (l == 0) return out;
  const int axis[] = {1, 2, 0};  // (y, z, x)
  Matrix first(3, 3);
  for (int m = 0; m < 3; ++m)
    for (int n = 0; n < 3; ++n) first(m, n) = rotation(axis[m], axis[n]);
  out.push_back(first);
  for (int degree = 2; degree <= l; ++degree)
    out.push_back(next_degree(degree, Centred(out[1]), Centred(out.back())));
  return out;
}

Matrix wigner_matrix(int l, const Element& rotation) { return wigner_matrices(l, rotation).back(); }

Vector spherical_harmonics(int l, const Eigen::Vector3d& x) {
  if (x.norm() == 0)
    throw UsageError("harmonics on the sphere: expected a point other than the origin");
  // Y(R z) = D(R) Y(z), and only m = 0 is not zero at z.
  const auto turn = Eigen::Quaterniond::FromTwoVectors(Eigen::Vector3d::UnitZ(), x);
  return wigner_matrix(l, turn.toRotationMatrix()).col(l);
}

Matrix clebsch_gordan_so3(int a, int b, int j) {
  if (j < std::abs(a - b) || j > a + b)
    throw UsageError(fmt::format("degree {} is not in the product of degrees {} and {}", j, a, b));
  const auto of_a = to_real(a), of_b = to_real(b), of_j = to_real(j);
  const auto rows = (2 * a + 1) * (2 * b + 1);
  Eigen::MatrixXcd complex = Eigen::MatrixXcd::Zero(rows, 2 * j + 1);
  for (int ma = -a; ma <= a; ++ma)
    for (int mb = -b; mb <= b; ++mb)
      if (std::abs(ma + mb) <= j)
        complex((ma + a) * (2 * b + 1) + mb + b, ma + mb + j) =
            complex_coefficient(a, ma, b, mb, j, ma + mb);
  Eigen::MatrixXcd pairs(rows, rows);
  for (int p = 0; p < 2 * a + 1; ++p)
    for (int q = 0; q < 2 * a + 1; ++q)
      pairs.block(p * (2 * b + 1), q * (2 * b + 1), 2 * b + 1, 2 * b + 1) = of_a(p, q) * of_b;
  // Real or imaginary as a whole: a + b + j even or odd.
  const Eigen::MatrixXcd real = pairs * complex * of_j.adjoint();
  Matrix out = (a + b + j) % 2 ? Matrix(real.imag()) : Matrix(real.real());
  for (int64_t i = 0; i < out.size(); ++i)
    if (const double value = out(i % rows, i / rows); std::abs(value) > 1e-9) {
      if (value < 0) out = -out;
      break;
    }
  return out;
}

}  // namespace evariste
