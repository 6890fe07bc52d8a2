#include "laplace/gram.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>

#include "core/widest.h"
#include "laplace/cuda/bind.h"
#include "laplace/register_tiles.h"

namespace evariste {

namespace {

constexpr int64_t kLeast = 64;      // narrower tiles waste more in the product than they save
constexpr int64_t kRows = 1 << 15;  // that are added up before float64 takes over

bool is_worth_tiles(const Tensor& rows) { return rows.size(0) == 1 && rows.size(2) > 2 * kLeast; }

/// Calls tile(begin, count) for the rows of tiles of a [d, d] matrix: columns 0 ... begin + count.
template <class Tile>
void for_each_tile(int64_t d, const Tile& tile) {
  const auto size = std::max(kLeast, (d / 4 + kLeast - 1) / kLeast * kLeast);
  for (int64_t begin = 0; begin < d; begin += size) tile(begin, std::min(size, d - begin));
}

}  // namespace

namespace {

constexpr int64_t kTile = 4;

/// out[i][j] = sum_k a[i][k] b[j][k] for four rows of each.
template <class T>
[[gnu::always_inline]] inline void multiply_tile(const T* const* a, const T* const* b,
                                                 int64_t count, T (*out)[kTile]) {
  constexpr int64_t kLanes = 64 / sizeof(T);
  typedef T Lanes __attribute__((vector_size(64)));
  Lanes sums[kTile][kTile] = {};
  int64_t k = 0;
  for (; k + kLanes <= count; k += kLanes) {
    Lanes left[kTile], right[kTile];
    for (int64_t i = 0; i < kTile; ++i) {
      std::memcpy(&left[i], a[i] + k, sizeof(Lanes));
      std::memcpy(&right[i], b[i] + k, sizeof(Lanes));
    }
    for (int64_t i = 0; i < kTile; ++i)
      for (int64_t j = 0; j < kTile; ++j) sums[i][j] += left[i] * right[j];
  }
  for (int64_t i = 0; i < kTile; ++i)
    for (int64_t j = 0; j < kTile; ++j) {
      out[i][j] = 0;
      for (int64_t lane = 0; lane < kLanes; ++lane) out[i][j] += sums[i][j][lane];
      for (int64_t rest = k; rest < count; ++rest) out[i][j] += a[i][rest] * b[j][rest];
    }
}

EVARISTE_WIDEST void multiply(const float* const* a, const float* const* b, int64_t count,
                              float (*out)[kTile]) {
  multiply_tile(a, b, count, out);
}
EVARISTE_WIDEST void multiply(const double* const* a, const double* const* b, int64_t count,
                              double (*out)[kTile]) {
  multiply_tile(a, b, count, out);
}

template <class T>
void multiply_all(const Tensor& a, const Tensor& b, Tensor& out) {
  const auto c = a.size(1), d = b.size(1), count = a.size(2);
  at::parallel_for(0, a.size(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const T* from_a = a.data_ptr<T>() + n * a.stride(0);
      const T* from_b = b.data_ptr<T>() + n * b.stride(0);
      T* to = out.data_ptr<T>() + n * c * d;
      for (int64_t i = 0; i < c; i += kTile)
        for (int64_t j = 0; j < d; j += kTile) {
          const T *left[kTile], *right[kTile];  // beyond the last row the last one again
          for (int64_t k = 0; k < kTile; ++k) {
            left[k] = from_a + std::min(i + k, c - 1) * a.stride(1);
            right[k] = from_b + std::min(j + k, d - 1) * b.stride(1);
          }
          T tile[kTile][kTile];
          multiply(left, right, count, tile);
          for (int64_t k = 0; k < kTile && i + k < c; ++k)
            for (int64_t l = 0; l < kTile && j + l < d; ++l) to[(i + k) * d + j + l] = tile[k][l];
        }
    }
  });
}

}  // namespace

Tensor inner_products(const Tensor& a, const Tensor& b) {
  TORCH_CHECK(a.dim() == 3 && b.dim() == 3 && a.size(0) == b.size(0) && a.size(2) == b.size(2) &&
                  a.scalar_type() == b.scalar_type() && a.device() == b.device(),
              "inner_products of ", a.sizes(), " and ", b.sizes());
  constexpr int64_t kFew = 32;
  const bool is_few = std::max(a.size(1), b.size(1)) <= kFew && a.device().is_cpu();
  const bool is_known = a.scalar_type() == torch::kFloat32 || a.scalar_type() == torch::kFloat64;
  if (!is_few || !is_known || a.size(2) == 0) return a.bmm(b.transpose(1, 2));
  const auto rows_a = a.stride(2) == 1 ? a : a.contiguous();
  const auto rows_b = b.stride(2) == 1 ? b : b.contiguous();
  auto out = torch::empty({a.size(0), a.size(1), b.size(1)}, a.options());
  if (a.scalar_type() == torch::kFloat32)
    multiply_all<float>(rows_a, rows_b, out);
  else
    multiply_all<double>(rows_a, rows_b, out);
  return out;
}

Tensor gram(const Tensor& rows) {
  GramSum sum;
  sum.add(rows);
  return sum.total();
}

void GramSum::add(const Tensor& rows) {
  side_ = rows.size(2);
  const bool on_gpu = cuda::takes(rows);  // its kernel makes lower tiles and float64 sums itself
  if (has_register_tiles(rows)) {
    add_by_updates(rows);
  } else if (!on_gpu && is_worth_tiles(rows)) {
    add_by_tiles(rows);
  } else {
    const auto product =
        on_gpu ? cuda::gram(rows) : rows.transpose(1, 2).matmul(rows).to(torch::kFloat64);
    sum_ = sum_.defined() ? sum_.add_(product) : product;
    return;
  }
  is_lower_ = true;
  added_ += rows.size(1);
  if (added_ >= kRows) flush();
}

void GramSum::add_by_updates(const Tensor& rows) {
  const auto side = padded_side(side_);
  if (!part_.defined()) part_ = torch::zeros({rows.size(0), side, side}, rows.options());
  for (int64_t q = 0; q < rows.size(0); ++q) {
    auto sum = part_[q];
    add_lower_gram(rows[q], sum);
  }
}

void GramSum::add_by_tiles(const Tensor& rows) {
  const auto columns = rows[0].t();
  const bool first = !part_.defined();
  if (first) part_ = torch::empty({1, side_, side_}, rows.options());
  for_each_tile(side_, [&](int64_t begin, int64_t count) {
    auto target = part_[0].narrow(0, begin, count).narrow(1, 0, begin + count);
    target.addmm_(columns.narrow(0, begin, count), rows[0].narrow(1, 0, begin + count),
                  first ? 0 : 1);
  });
}

void GramSum::flush() {
  if (!part_.defined()) return;
  const auto part = part_.narrow(1, 0, side_).narrow(2, 0, side_);
  if (sum_.defined())
    sum_.add_(part);
  else
    sum_ = part.to(torch::kFloat64, /*non_blocking=*/false, /*copy=*/true);
  part_ = Tensor();
  added_ = 0;
}

Tensor GramSum::total() {
  flush();
  if (is_lower_ && sum_.defined()) sum_ = sum_.tril() + sum_.tril(-1).transpose(1, 2);
  is_lower_ = false;
  return sum_;
}

}  // namespace evariste
