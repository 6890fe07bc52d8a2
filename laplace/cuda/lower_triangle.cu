// K12: lower triangles by rows, what processes exchange of symmetric matrices.
#include "laplace/cuda/device.cuh"

namespace evariste::EVARISTE_CUDA_NAMESPACE {
namespace {

constexpr int kThreads = 256;
constexpr int kSquare = 32;

/// Block (row, group).
template <class T>
__global__ void __launch_bounds__(kThreads) pack_kernel(const T* matrices, int64_t d, T* packed) {
  const int64_t i = blockIdx.x, q = blockIdx.y;
  const T* from = matrices + (q * d + i) * d;
  T* const to = packed + q * (d * (d + 1) / 2) + i * (i + 1) / 2;
  for (int64_t j = threadIdx.x; j <= i; j += kThreads) to[j] = from[j];
}

/// Block (square on or below the diagonal, group), 32 x 8 threads. The mirror image goes through
/// shared memory, so that both halves are written along their rows.
template <class T>
__global__ void __launch_bounds__(kThreads) unpack_kernel(const T* packed, int64_t d, T* matrices) {
  EVARISTE_SHARED(T, square);  // [32][33]
  int block_i = 0, block_j = static_cast<int>(blockIdx.x);
  while (block_j > block_i) block_j -= ++block_i;
  const int64_t q = blockIdx.y;
  const int x = threadIdx.x % kSquare, y = threadIdx.x / kSquare;
  packed += q * (d * (d + 1) / 2);
  matrices += q * d * d;
  const int64_t j = static_cast<int64_t>(block_j) * kSquare + x;
  for (int row = y; row < kSquare; row += kThreads / kSquare) {
    const int64_t i = static_cast<int64_t>(block_i) * kSquare + row;
    if (i >= d || j > i) continue;
    const T value = packed[i * (i + 1) / 2 + j];
    matrices[i * d + j] = value;
    square[row * (kSquare + 1) + x] = value;
  }
  __syncthreads();
  const int64_t i = static_cast<int64_t>(block_i) * kSquare + x;
  for (int row = y; row < kSquare; row += kThreads / kSquare) {
    const int64_t column = static_cast<int64_t>(block_j) * kSquare + row;
    if (i < d && column < i) matrices[column * d + i] = square[x * (kSquare + 1) + row];
  }
}

template <class T>
int run_pack(const T* matrices, int64_t groups, int64_t d, T* packed, cudaStream_t stream) {
  if (groups < 0 || d < 0 || groups > 65535 || d > INT32_MAX) return kInvalidValue;
  if (groups == 0 || d == 0) return 0;
  return launch(pack_kernel<T>, dim3(static_cast<unsigned>(d), static_cast<unsigned>(groups)),
                kThreads, 0, stream, matrices, d, packed);
}

template <class T>
int run_unpack(const T* packed, int64_t groups, int64_t d, T* matrices, cudaStream_t stream) {
  if (groups < 0 || d < 0 || groups > 65535 || d > 1 << 20) return kInvalidValue;
  if (groups == 0 || d == 0) return 0;
  const auto side = ceil_div(d, kSquare);
  return launch(unpack_kernel<T>,
                dim3(static_cast<unsigned>(side * (side + 1) / 2), static_cast<unsigned>(groups)),
                kThreads, sizeof(T) * kSquare * (kSquare + 1), stream, packed, d, matrices);
}

}  // namespace

int pack_lower(const float* matrices, int64_t groups, int64_t dimension, float* packed,
               cudaStream_t stream) {
  return run_pack(matrices, groups, dimension, packed, stream);
}
int pack_lower(const double* matrices, int64_t groups, int64_t dimension, double* packed,
               cudaStream_t stream) {
  return run_pack(matrices, groups, dimension, packed, stream);
}
int unpack_lower(const float* packed, int64_t groups, int64_t dimension, float* matrices,
                 cudaStream_t stream) {
  return run_unpack(packed, groups, dimension, matrices, stream);
}
int unpack_lower(const double* packed, int64_t groups, int64_t dimension, double* matrices,
                 cudaStream_t stream) {
  return run_unpack(packed, groups, dimension, matrices, stream);
}

}  // namespace evariste::EVARISTE_CUDA_NAMESPACE
