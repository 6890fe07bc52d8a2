#include "laplace/register_tiles.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "core/widest.h"

namespace evariste {
namespace {

constexpr int64_t kVector = 64;          // bytes
constexpr int64_t kHigh = 8, kWide = 2;  // a tile: rows, and vectors in a row
constexpr int64_t kDeep = 128;           // rows of the operand at a time, at most
constexpr int64_t kBlockBytes = 256 << 10;
constexpr int64_t kWorthThread = 1 << 20;  // flops

template <class T>
constexpr int64_t kColumns = kWide* kVector / static_cast<int64_t>(sizeof(T));

/// An operand in memory: rows of whole tiles, `stride` apart.
template <class T>
struct Packed {
  const T* data;
  int64_t side, stride;
};

enum class Into { kSum, kSquares };

/// The tile of `high` rows from i on and `wide` vectors from j on of a^T b, into `sum` [..,
/// b.side].
template <Into into, int64_t high, int64_t wide, class T>
[[gnu::always_inline]] inline void add_tile(Packed<T> a, Packed<T> b, int64_t count, int64_t i,
                                            int64_t j, T* sum) {
  typedef T Vector __attribute__((vector_size(kVector)));
  typedef T Unaligned __attribute__((vector_size(kVector), aligned(alignof(T))));
  Vector tile[high][wide] = {};
  const T* left = a.data + i;
  const T* right = b.data + j;
  for (int64_t k = 0; k < count; ++k, left += a.stride, right += b.stride) {
    const auto* row = reinterpret_cast<const Unaligned*>(right);
    for (int64_t u = 0; u < high; ++u)
      for (int64_t w = 0; w < wide; ++w) tile[u][w] += left[u] * row[w];
  }
  for (int64_t u = 0; u < high; ++u) {
    auto* to = reinterpret_cast<Vector*>(sum + (i + u) * b.side + j);
    for (int64_t w = 0; w < wide; ++w)
      to[w] += into == Into::kSquares ? tile[u][w] * tile[u][w] : tile[u][w];
  }
}

/// Tiles [begin, end) of the product: columns j, and in each its rows i.
template <class T>
[[gnu::always_inline]] inline void add_square_tiles(Packed<T> a, Packed<T> b, int64_t count,
                                                    int64_t begin, int64_t end, T* sum) {
  int64_t tile = 0;
  for (int64_t j = 0; j < b.side && tile < end; j += kColumns<T>)
    for (int64_t i = 0; i < a.side && tile < end; i += kHigh, ++tile)
      if (tile >= begin) add_tile<Into::kSquares, kHigh, kWide>(a, b, count, i, j, sum);
}

template <class T>
constexpr int64_t kLanes = kColumns<T> / kWide;

/// How many tiles the lower triangle of a [side, side] product has of which the first `used` rows
/// are not padding.
template <class T>
int64_t count_lower_tiles(int64_t side, int64_t used) {
  int64_t tiles = 0;
  for (int64_t j = 0; j < side; j += kColumns<T>)
    tiles += 1 + std::max<int64_t>(0, used - j - kLanes<T> + kHigh - 1) / kHigh;
  return tiles;
}

/// Those of them in [begin, end): in columns j the square on the diagonal, one vector wide, then
/// the rows below it.
template <class T>
[[gnu::always_inline]] inline void add_lower_tiles(Packed<T> rows, int64_t used, int64_t count,
                                                   int64_t begin, int64_t end, T* sum) {
  int64_t tile = 0;
  for (int64_t j = 0; j < rows.side && tile < end; j += kColumns<T>) {
    if (tile++ >= begin) {
      if (used - j > kHigh || kLanes<T> == kHigh)
        add_tile<Into::kSum, kLanes<T>, 1>(rows, rows, count, j, j, sum);
      else  // few columns: the rest of the square is padding
        add_tile<Into::kSum, kHigh, 1>(rows, rows, count, j, j, sum);
    }
    for (int64_t i = j + kLanes<T>; i < used && tile < end; i += kHigh, ++tile)
      if (tile >= begin) add_tile<Into::kSum, kHigh, kWide>(rows, rows, count, i, j, sum);
  }
}

EVARISTE_WIDEST void add_gram(Packed<float> rows, int64_t used, int64_t count, int64_t begin,
                              int64_t end, float* sum) {
  add_lower_tiles(rows, used, count, begin, end, sum);
}
EVARISTE_WIDEST void add_gram(Packed<double> rows, int64_t used, int64_t count, int64_t begin,
                              int64_t end, double* sum) {
  add_lower_tiles(rows, used, count, begin, end, sum);
}
EVARISTE_WIDEST void add_squares(Packed<float> a, Packed<float> b, int64_t count, int64_t begin,
                                 int64_t end, float* sum) {
  add_square_tiles(a, b, count, begin, end, sum);
}
EVARISTE_WIDEST void add_squares(Packed<double> a, Packed<double> b, int64_t count, int64_t begin,
                                 int64_t end, double* sum) {
  add_square_tiles(a, b, count, begin, end, sum);
}

/// Rows as tiles want them: as they lie, or copied to where columns beyond the last are zero.
template <class T>
class Panel {
 public:
  /// For up to `rows` rows; sides are multiples of `whole`.
  Panel(int64_t rows, int64_t columns, int64_t whole)
      : rows_(rows), columns_(columns), side_((columns + whole - 1) / whole * whole) {}

  Packed<T> operator()(const T* from, int64_t stride_row, int64_t stride_column, int64_t count) {
    if (stride_column == 1 && side_ == columns_) return {from, side_, stride_row};
    if (!room_.defined()) room_ = torch::zeros({rows_ * side_}, c10::CppTypeToScalarType<T>::value);
    T* to = room_.template data_ptr<T>();
    if (stride_column == 1) {
      for (int64_t k = 0; k < count; ++k)
        std::copy_n(from + k * stride_row, columns_, to + k * side_);
    } else {
      for (int64_t c = 0; c < columns_; ++c)
        for (int64_t k = 0; k < count; ++k)
          to[k * side_ + c] = from[k * stride_row + c * stride_column];
    }
    return {to, side_, side_};
  }

 private:
  int64_t rows_, columns_, side_;
  Tensor room_;
};

template <class T>
void add_lower_gram_of(const Tensor& rows, Tensor& sum) {
  const auto r = rows.size(0), d = rows.size(1), side = sum.size(0);
  const auto deep = std::clamp<int64_t>(kBlockBytes / (side * static_cast<int64_t>(sizeof(T))), 16,
                                        std::min(kDeep, std::max<int64_t>(16, r)));
  const auto tiles = count_lower_tiles<T>(side, d);
  const T* from = rows.data_ptr<T>();
  T* to = sum.data_ptr<T>();
  const auto flops = 2 * r * kHigh * kColumns<T>;
  // Each thread has tiles of its own and packs for itself: no sum is split.
  at::parallel_for(0, tiles, std::max<int64_t>(1, kWorthThread / std::max<int64_t>(1, flops)),
                   [&](int64_t begin, int64_t end) {
                     Panel<T> block(deep, d, side);
                     for (int64_t k = 0; k < r; k += deep) {
                       const auto count = std::min(deep, r - k);
                       add_gram(
                           block(from + k * rows.stride(0), rows.stride(0), rows.stride(1), count),
                           d, count, begin, end, to);
                     }
                   });
}

template <class T>
Tensor squared_products_of(const Tensor& a, const Tensor& b) {
  // Parts of the samples have sums of their own, as many whatever the number of threads, so that
  // each thread packs what it reads and no other, and sums do not depend on the threads.
  constexpr int64_t kParts = 8;
  const auto folds = a.size(0), n = a.size(1), t = a.size(2), o = a.size(3), j = b.size(2);
  const auto high = (o + kHigh - 1) / kHigh,
             wide = (j + kColumns<T> - 1) / kColumns<T>;  // in tiles
  const auto parts = std::min(n, kParts);
  auto sums = torch::zeros({parts, high * kHigh, wide * kColumns<T>}, a.options());
  const auto flops = 2 * folds * n * t * high * kHigh * wide * kColumns<T> / parts;
  at::parallel_for(0, parts, std::max<int64_t>(1, kWorthThread / std::max<int64_t>(1, flops)),
                   [&](int64_t first, int64_t last) {
                     Panel<T> left(t, o, kHigh), right(t, j, kColumns<T>);
                     for (int64_t part = first; part < last; ++part) {
                       T* to = sums.template data_ptr<T>() + part * sums.stride(0);
                       for (int64_t i = part * n / parts; i < (part + 1) * n / parts; ++i) {
                         const auto features =
                             right(b.data_ptr<T>() + i * b.stride(0), b.stride(1), b.stride(2), t);
                         for (int64_t r = 0; r < folds; ++r)
                           add_squares(left(a.data_ptr<T>() + r * a.stride(0) + i * a.stride(1),
                                            a.stride(2), a.stride(3), t),
                                       features, t, 0, high * wide, to);
                       }
                     }
                   });
  return sums.sum(0, false, torch::kFloat64).narrow(0, 0, o).narrow(1, 0, j).contiguous();
}

}  // namespace

bool has_register_tiles(const Tensor& rows) {
  static const bool is_wide = [] {
#if defined(__x86_64__) && defined(__GNUC__)
    return __builtin_cpu_supports("avx512f") > 0;
#else
    return false;
#endif
  }();
  return is_wide && rows.device().is_cpu() &&
         (rows.scalar_type() == torch::kFloat32 || rows.scalar_type() == torch::kFloat64);
}

int64_t padded_side(int64_t d) {
  constexpr int64_t kWhole = kColumns<float>;  // also whole tiles of float64, and of rows
  static_assert(kWhole % kColumns<double> == 0 && kWhole % kHigh == 0);
  return (d + kWhole - 1) / kWhole * kWhole;
}

void add_lower_gram(const Tensor& rows, Tensor& sum) {
  TORCH_CHECK(rows.dim() == 2 && sum.dim() == 2 && sum.is_contiguous() &&
                  sum.size(0) == sum.size(1) && sum.size(0) == padded_side(rows.size(1)) &&
                  sum.scalar_type() == rows.scalar_type(),
              "add_lower_gram of ", rows.sizes(), " into ", sum.sizes());
  if (rows.scalar_type() == torch::kFloat32)
    add_lower_gram_of<float>(rows, sum);
  else
    add_lower_gram_of<double>(rows, sum);
}

Tensor squared_products(const Tensor& a, const Tensor& b) {
  TORCH_CHECK(a.dim() == 4 && b.dim() == 3 && a.size(1) == b.size(0) && a.size(2) == b.size(1) &&
                  a.scalar_type() == b.scalar_type(),
              "squared_products of ", a.sizes(), " and ", b.sizes());
  if (a.scalar_type() == torch::kFloat32) return squared_products_of<float>(a, b);
  return squared_products_of<double>(a, b);
}

}  // namespace evariste
