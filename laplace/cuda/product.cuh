// One tile of L^T R, the product that Gram matrices and convolution factors share.
//
//   tile[m, n] = sum_k L[k, m0 + m] R[k, n0 + n]
//
// L and R are read row by row (k is the slow index of both), so a block copies kDepth rows of kM
// and kN columns at a time into shared memory as they lie, kStages deep and in the background. Both
// operands of a tensor core's product then want column-wise pairs of rows, which are plain loads of
// shared memory: rows are padded by 8 numbers, so that the 4 rows and 8 columns that a warp reads
// at once lie in 32 different banks. For bfloat16 that takes another order of the 16 rows of a
// step, the same for both operands and so without effect on the sum: a register holds rows t and
// t + 4 where the manual has 2t and 2t + 1.
//
// What lies in row k and column m is a Source's answer; numbers outside it are zeros.
#pragma once

#include "laplace/cuda/device.cuh"

namespace evariste::EVARISTE_CUDA_NAMESPACE {

constexpr int kDepth = 16;
constexpr int kStages = 4;
constexpr int kPad = 8;

/// Warps (tensor cores) or threads (else) that share a tile, kAcross of them along m.
template <class T, Precision kPrecision, int kM, int kN>
struct Layout;

template <Precision kPrecision, int kM, int kN>
struct Layout<float, kPrecision, kM, kN> {
  static constexpr int kThreads = 128;
  static constexpr int kAcross = kM == 16 ? 1 : 2;  // warps
};
template <int kM, int kN>
struct Layout<float, Precision::kStrict, kM, kN> {
  static constexpr int kThreads = 256;
  static constexpr int kAcross = kM == 16 ? 8 : 16;
};
template <int kM, int kN>
struct Layout<double, Precision::kStrict, kM, kN> {
  static constexpr int kThreads = 256;
  static constexpr int kAcross = 16;
};

template <class T, int kM, int kN>
constexpr size_t product_shared_bytes() {
  return sizeof(T) * kStages * kDepth * (kM + kPad + kN + kPad);
}

/// bfloat16 parts of two numbers, hi + lo, each pair in one register.
__device__ inline void split_bf16(float low, float high, uint32_t& hi, uint32_t& lo) {
  hi = to_bf16_pair(low, high);
  lo = to_bf16_pair(low - __uint_as_float(hi << 16), high - __uint_as_float(hi & 0xffff0000u));
}

/// The part of a tile that one thread holds, and its multiplication by tensor cores.
template <class T, Precision kPrecision, int kM, int kN>
struct Sums {
  using Shape = Layout<T, kPrecision, kM, kN>;
  static constexpr int kDown = Shape::kThreads / kWarp / Shape::kAcross;
  static constexpr int kRows = kM / Shape::kAcross / 16;  // products of a warp, [16, 8] each
  static constexpr int kColumns = kN / kDown / 8;
  float d[kRows][kColumns][4] = {};

  static __device__ int first_m() { return (threadIdx.x / kWarp) % Shape::kAcross * (kRows * 16); }
  static __device__ int first_n() {
    return (threadIdx.x / kWarp) / Shape::kAcross * (kColumns * 8);
  }

  __device__ void add(const float* left, const float* right) {
    constexpr int kLeft = kM + kPad, kRight = kN + kPad;
    const int g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
    const float* l = left + t * kLeft + first_m() + g;    // row t, column g of the warp's part
    const float* r = right + t * kRight + first_n() + g;  // the same of the other operand
    if constexpr (kPrecision == Precision::kBf16x3) {
      uint32_t hi[kColumns][2], lo[kColumns][2];
#pragma unroll
      for (int j = 0; j < kColumns; ++j)
#pragma unroll
        for (int h = 0; h < 2; ++h)
          split_bf16(r[8 * h * kRight + 8 * j], r[(8 * h + 4) * kRight + 8 * j], hi[j][h],
                     lo[j][h]);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        uint32_t a_hi[4], a_lo[4];
#pragma unroll
        for (int part = 0; part < 4; ++part) {
          const float* at = l + 8 * (part / 2) * kLeft + 16 * i + 8 * (part % 2);
          split_bf16(at[0], at[4 * kLeft], a_hi[part], a_lo[part]);
        }
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          mma_bf16(d[i][j], a_lo, hi[j]);
          mma_bf16(d[i][j], a_hi, lo[j]);
          mma_bf16(d[i][j], a_hi, hi[j]);
        }
      }
    } else {
#pragma unroll
      for (int step = 0; step < kDepth; step += 8) {
        uint32_t b[kColumns][2];
#pragma unroll
        for (int j = 0; j < kColumns; ++j)
#pragma unroll
          for (int h = 0; h < 2; ++h) b[j][h] = to_tf32(r[(step + 4 * h) * kRight + 8 * j]);
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          uint32_t a[4];
#pragma unroll
          for (int part = 0; part < 4; ++part)
            a[part] = to_tf32(l[(step + 4 * (part / 2)) * kLeft + 16 * i + 8 * (part % 2)]);
#pragma unroll
          for (int j = 0; j < kColumns; ++j) mma_tf32(d[i][j], a, b[j]);
        }
      }
    }
  }

  /// visit(m, n, value) for the thread's entries.
  template <class Visit>
  __device__ void for_each(const Visit& visit) const {
    const int g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < kRows; ++i)
#pragma unroll
      for (int j = 0; j < kColumns; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          visit(first_m() + 16 * i + g + 8 * (e / 2), first_n() + 8 * j + 2 * t + e % 2,
                d[i][j][e]);
  }
};

/// The same without tensor cores: an outer product of a few numbers of each row.
template <class T, int kM, int kN>
struct Sums<T, Precision::kStrict, kM, kN> {
  using Shape = Layout<T, Precision::kStrict, kM, kN>;
  static constexpr int kDown = Shape::kThreads / Shape::kAcross;
  static constexpr int kRows = kM / Shape::kAcross, kColumns = kN / kDown;
  static constexpr int kWide = 16 / sizeof(T);  // numbers read at once
  static constexpr int kRowPack = kRows < kWide ? kRows : kWide;
  static constexpr int kColumnPack = kColumns < kWide ? kColumns : kWide;
  T d[kRows][kColumns] = {};

  // Packs of one thread lie a whole round of threads apart: neighbours read neighbouring packs.
  static __device__ int m(int i) {
    const int x = threadIdx.x % Shape::kAcross;
    return (i / kRowPack * Shape::kAcross + x) * kRowPack + i % kRowPack;
  }
  static __device__ int n(int j) {
    const int y = threadIdx.x / Shape::kAcross;
    return (j / kColumnPack * kDown + y) * kColumnPack + j % kColumnPack;
  }

  __device__ void add(const T* left, const T* right) {
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      T l[kRows], r[kColumns];
#pragma unroll
      for (int i = 0; i < kRows; i += kRowPack) {
        const auto pack =
            *reinterpret_cast<const Pack<T, kRowPack>*>(left + k * (kM + kPad) + m(i));
#pragma unroll
        for (int e = 0; e < kRowPack; ++e) l[i + e] = pack.at[e];
      }
#pragma unroll
      for (int j = 0; j < kColumns; j += kColumnPack) {
        const auto pack =
            *reinterpret_cast<const Pack<T, kColumnPack>*>(right + k * (kN + kPad) + n(j));
#pragma unroll
        for (int e = 0; e < kColumnPack; ++e) r[j + e] = pack.at[e];
      }
#pragma unroll
      for (int i = 0; i < kRows; ++i)
#pragma unroll
        for (int j = 0; j < kColumns; ++j) d[i][j] += l[i] * r[j];
    }
  }

  /// Adds the squares of the other's entries, which it clears.
  __device__ void take_squares(Sums& other) {
#pragma unroll
    for (int i = 0; i < kRows; ++i)
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        d[i][j] += other.d[i][j] * other.d[i][j];
        other.d[i][j] = 0;
      }
  }

  template <class Visit>
  __device__ void for_each(const Visit& visit) const {
#pragma unroll
    for (int i = 0; i < kRows; ++i)
#pragma unroll
      for (int j = 0; j < kColumns; ++j) visit(m(i), n(j), d[i][j]);
  }
};

struct Nothing {
  __device__ void operator()(int) const {}
};

/// Adds rows [begin, end) of the source; after(step) follows the kDepth rows of each step. A Source
/// has
///   Left, Right           what is known of a column for all rows
///   Left left(int m)      and Right right(int n), of columns of the tile
///   Row row(int k)        what is known of a row for all columns
///   const T* at(Row, Left, bool& valid), the same for Right: kVector numbers
///   bool same             L and R are the same columns (then Right is not asked)
template <Precision kPrecision, int kM, int kN, int kVector, class T, class Source,
          class After = Nothing>
__device__ void add_product(const Source& source, int begin, int end,
                            Sums<T, kPrecision, kM, kN>& sums, const After& after = {}) {
  constexpr int kThreads = Layout<T, kPrecision, kM, kN>::kThreads;
  constexpr int kLeft = kM + kPad, kRight = kN + kPad;
  constexpr int kLeftChunks = kM / kVector, kRightChunks = kN / kVector;  // in a row
  static_assert(kThreads % kLeftChunks == 0 && kThreads % kRightChunks == 0);
  constexpr int kBytes = kVector * static_cast<int>(sizeof(T));
  EVARISTE_SHARED(T, shared);
  T* const left = shared;
  T* const right = source.same ? left : shared + kStages * kDepth * kLeft;

  // A thread copies the same columns of every row, so that it finds their place once.
  const int thread = static_cast<int>(threadIdx.x);
  const int m = thread % kLeftChunks * kVector, n = thread % kRightChunks * kVector;
  const auto left_column = source.left(m);
  const auto right_column = source.right(n);
  const auto fetch = [&](int stage, int first) {
    T* const to_left = left + stage * kDepth * kLeft + m;
    T* const to_right = right + stage * kDepth * kRight + n;
    if constexpr (kLeftChunks == kRightChunks) {
#pragma unroll
      for (int k = thread / kLeftChunks; k < kDepth; k += kThreads / kLeftChunks) {
        const auto row = source.row(first + k);
        bool valid = first + k < end;
        const T* from = source.at(row, left_column, valid);
        copy_async<kBytes>(to_left + k * kLeft, from, valid);
        if (source.same) continue;
        valid = first + k < end;
        from = source.at(row, right_column, valid);
        copy_async<kBytes>(to_right + k * kRight, from, valid);
      }
    } else {
#pragma unroll
      for (int k = thread / kLeftChunks; k < kDepth; k += kThreads / kLeftChunks) {
        bool valid = first + k < end;
        const T* from = source.at(source.row(first + k), left_column, valid);
        copy_async<kBytes>(to_left + k * kLeft, from, valid);
      }
#pragma unroll
      for (int k = thread / kRightChunks; k < kDepth; k += kThreads / kRightChunks) {
        bool valid = first + k < end;
        const T* from = source.at(source.row(first + k), right_column, valid);
        copy_async<kBytes>(to_right + k * kRight, from, valid);
      }
    }
  };

  const int steps = (end - begin + kDepth - 1) / kDepth;
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < steps) fetch(s, begin + s * kDepth);
    copy_commit();
  }
  for (int s = 0; s < steps; ++s) {
    copy_wait<kStages - 2>();  // this thread's part of step s is there
    __syncthreads();           // everybody's is, and nobody reads the stage of step s - 1 any more
    const int ahead = s + kStages - 1;
    if (ahead < steps) fetch(ahead % kStages, begin + ahead * kDepth);
    copy_commit();  // empty at the end: what is waited for is counted in groups
    sums.add(left + s % kStages * kDepth * kLeft, right + s % kStages * kDepth * kRight);
    after(s);
  }
  copy_wait<0>();
}

}  // namespace evariste::EVARISTE_CUDA_NAMESPACE
