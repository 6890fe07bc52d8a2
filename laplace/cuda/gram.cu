// K2: Gram matrices of rows, lower tiles only. See product.cuh for the tile.
#include "laplace/cuda/product.cuh"

namespace evariste::EVARISTE_CUDA_NAMESPACE {
namespace {

constexpr int64_t kBlocks = 528;     // enough for four on each of 132 processors
constexpr int64_t kMostRows = 8192;  // that float32 sums are trusted with
constexpr int64_t kLeastRows = 256;  // below which a split costs more than it brings
constexpr int kSquare = 32;          // of the final sum

struct Plan {
  int64_t tile, tiles, splits, rows;  // side of a tile; tiles of a group; splits, of `rows` rows
  Plan(int64_t groups, int64_t count, int64_t dimension, size_t element_size) {
    tile = element_size == 8 || dimension <= 64 ? 64 : 128;
    const auto side = ceil_div(dimension, tile);
    tiles = side * (side + 1) / 2;
    const auto filling = std::min(ceil_div(kBlocks, tiles * groups), ceil_div(count, kLeastRows));
    splits = std::max<int64_t>({1, filling, ceil_div(count, kMostRows)});
    rows = std::max<int64_t>(1, ceil_div(ceil_div(count, splits), kDepth)) * kDepth;
    splits = std::max<int64_t>(1, ceil_div(count, rows));
  }
  int64_t entries(int64_t groups) const { return groups * tiles * splits * tile * tile; }
};

/// Row and column of the lower triangle's entry `index`, in rows.
__device__ inline void triangle_place(int index, int& row, int& column) {
  row = static_cast<int>((sqrt(8.0 * index + 1.0) - 1.0) / 2);
  while (row * (row + 1) / 2 > index) --row;
  while ((row + 1) * (row + 2) / 2 <= index) ++row;
  column = index - row * (row + 1) / 2;
}

template <class T>
struct Rows {
  const T* data;
  int64_t stride;
  int dimension, m0, n0;
  bool same;

  using Left = int;
  __device__ int left(int m) const { return m0 + m; }
  __device__ int right(int n) const { return n0 + n; }
  __device__ const T* row(int k) const { return data + k * stride; }
  __device__ const T* at(const T* row, int column, bool& valid) const {
    valid = valid && column < dimension;
    return row + column;
  }
};

/// Block (tile, split, q): the tile's sum over the split's rows, to partial[q][tile][split].
template <class T, Precision kPrecision, int kTile, int kVector>
__global__ void __launch_bounds__(Layout<T, kPrecision, kTile, kTile>::kThreads)
    gram_tiles(const T* rows, int count, int dimension, int64_t row_stride, int64_t group_stride,
               int rows_each, T* partial) {
  int i, j;
  triangle_place(static_cast<int>(blockIdx.x), i, j);
  const Rows<T> source{
      rows + blockIdx.z * group_stride, row_stride, dimension, i * kTile, j * kTile, i == j};
  Sums<T, kPrecision, kTile, kTile> sums;
  const int begin = static_cast<int>(blockIdx.y) * rows_each;
  add_product<kPrecision, kTile, kTile, kVector>(
      source, begin, begin + rows_each < count ? begin + rows_each : count, sums);
  const auto place =
      (static_cast<int64_t>(blockIdx.z) * gridDim.x + blockIdx.x) * gridDim.y + blockIdx.y;
  T* const out = partial + place * kTile * kTile;
  sums.for_each([&](int m, int n, T value) { out[m * kTile + n] = value; });
}

/// Block (square, q) of 32 x 8 threads: a square on or below the diagonal and its mirror image.
template <class T>
__global__ void __launch_bounds__(256)
    sum_tiles(const T* partial, int dimension, int tile, int tiles, int splits, bool accumulate,
              double* out) {
  EVARISTE_SHARED(double, square);  // [32][33]
  int block_i, block_j;
  triangle_place(static_cast<int>(blockIdx.x), block_i, block_j);
  const int x = threadIdx.x % kSquare, y = threadIdx.x / kSquare;
  out += static_cast<int64_t>(blockIdx.y) * dimension * dimension;
  const int j = block_j * kSquare + x;
  for (int row = y; row < kSquare; row += 8) {
    const int i = block_i * kSquare + row;
    double sum = 0;
    if (i < dimension && j <= i) {
      const int ti = i / tile, tj = j / tile;
      const auto index = static_cast<int64_t>(blockIdx.y) * tiles + ti * (ti + 1) / 2 + tj;
      const T* from = partial + index * splits * tile * tile + i % tile * tile + j % tile;
      for (int s = 0; s < splits; ++s) sum += static_cast<double>(from[s * tile * tile]);
      auto& entry = out[static_cast<int64_t>(i) * dimension + j];
      sum = accumulate ? entry + sum : sum;
      entry = sum;
    }
    square[row * (kSquare + 1) + x] = sum;
  }
  __syncthreads();
  for (int row = y; row < kSquare; row += 8) {  // transposed: x runs along the original's rows
    const int i = block_i * kSquare + x, column = block_j * kSquare + row;
    if (i < dimension && column < i)
      out[static_cast<int64_t>(column) * dimension + i] = square[x * (kSquare + 1) + row];
  }
}

template <class T, Precision kPrecision, int kTile, int kVector>
int launch_tiles(const T* rows, int64_t groups, int64_t count, int64_t dimension,
                 int64_t row_stride, int64_t group_stride, const Plan& plan, T* partial,
                 cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(plan.tiles), static_cast<unsigned>(plan.splits),
                  static_cast<unsigned>(groups));
  return launch(gram_tiles<T, kPrecision, kTile, kVector>, grid,
                Layout<T, kPrecision, kTile, kTile>::kThreads,
                product_shared_bytes<T, kTile, kTile>(), stream, rows, static_cast<int>(count),
                static_cast<int>(dimension), row_stride, group_stride, static_cast<int>(plan.rows),
                partial);
}

template <class T, int kTile, int kVector>
int choose_precision(Precision precision, const T* rows, int64_t groups, int64_t count,
                     int64_t dimension, int64_t row_stride, int64_t group_stride, const Plan& plan,
                     T* partial, cudaStream_t stream) {
  const auto run = [&](auto kernel) {
    return kernel(rows, groups, count, dimension, row_stride, group_stride, plan, partial, stream);
  };
  if constexpr (sizeof(T) == 4) {
    if (precision == Precision::kTf32)
      return run(launch_tiles<T, Precision::kTf32, kTile, kVector>);
    if (precision == Precision::kBf16x3)
      return run(launch_tiles<T, Precision::kBf16x3, kTile, kVector>);
  }
  return run(launch_tiles<T, Precision::kStrict, kTile, kVector>);
}

template <class T>
int run_gram(const T* rows, int64_t groups, int64_t count, int64_t dimension, int64_t row_stride,
             int64_t group_stride, double* out, bool accumulate, Precision precision,
             void* workspace, size_t bytes, cudaStream_t stream) {
  const Plan plan(groups, count, dimension, sizeof(T));
  if (groups < 1 || dimension < 1 || count < 0 || groups > 65535 || plan.splits > 65535 ||
      count > INT32_MAX - 2 * kMostRows || dimension > 1 << 20 ||
      bytes < gram_workspace_bytes(groups, count, dimension, sizeof(T)))
    return kInvalidValue;
  T* const partial = static_cast<T*>(workspace);
  constexpr int kWide = 16 / sizeof(T);
  const bool is_wide = dimension % kWide == 0 && row_stride % kWide == 0 &&
                       group_stride % kWide == 0 && reinterpret_cast<uintptr_t>(rows) % 16 == 0;
  const auto run = [&](auto kernel) {
    return kernel(precision, rows, groups, count, dimension, row_stride, group_stride, plan,
                  partial, stream);
  };
  int error = 0;
  if constexpr (sizeof(T) == 8) {
    error = is_wide ? run(choose_precision<T, 64, kWide>) : run(choose_precision<T, 64, 1>);
  } else if (plan.tile == 64) {
    error = is_wide ? run(choose_precision<T, 64, kWide>) : run(choose_precision<T, 64, 1>);
  } else {
    error = is_wide ? run(choose_precision<T, 128, kWide>) : run(choose_precision<T, 128, 1>);
  }
  if (error) return error;
  const auto side = ceil_div(dimension, kSquare);
  const dim3 grid(static_cast<unsigned>(side * (side + 1) / 2), static_cast<unsigned>(groups));
  return launch(sum_tiles<T>, grid, 256, sizeof(double) * kSquare * (kSquare + 1), stream, partial,
                static_cast<int>(dimension), static_cast<int>(plan.tile),
                static_cast<int>(plan.tiles), static_cast<int>(plan.splits), accumulate, out);
}

}  // namespace

size_t gram_workspace_bytes(int64_t groups, int64_t count, int64_t dimension, size_t element_size) {
  return static_cast<size_t>(Plan(groups, count, dimension, element_size).entries(groups)) *
         element_size;
}

int gram(const float* rows, int64_t groups, int64_t count, int64_t dimension, int64_t row_stride,
         int64_t group_stride, double* out, bool accumulate, Precision precision, void* workspace,
         size_t workspace_bytes, cudaStream_t stream) {
  return run_gram(rows, groups, count, dimension, row_stride, group_stride, out, accumulate,
                  precision, workspace, workspace_bytes, stream);
}
int gram(const double* rows, int64_t groups, int64_t count, int64_t dimension, int64_t row_stride,
         int64_t group_stride, double* out, bool accumulate, Precision precision, void* workspace,
         size_t workspace_bytes, cudaStream_t stream) {
  return run_gram(rows, groups, count, dimension, row_stride, group_stride, out, accumulate,
                  precision, workspace, workspace_bytes, stream);
}

}  // namespace evariste::EVARISTE_CUDA_NAMESPACE
