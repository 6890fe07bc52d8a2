// K9: g diag(w) g^T for each sample, what the products of a predictive end in.
#include "laplace/cuda/device.cuh"

namespace evariste::EVARISTE_CUDA_NAMESPACE {
namespace {

constexpr int kThreads = 256;
constexpr int kSide = 16;                      // outputs of a block, squared
constexpr int kParts = 4;                      // of the sum, each by 64 threads with 2 x 2 entries
constexpr int kDepth = 64, kPad = kDepth + 1;  // terms in shared memory; odd rows, other banks

/// Block (sample, square (c, d) on or below the diagonal).
template <class T>
__global__ void __launch_bounds__(kThreads)
    covariance_kernel(const T* g, const T* w, int groups, int columns, int samples, int outputs,
                      T* out) {
  EVARISTE_SHARED(T, shared);  // left [16][65], right w [16][65]; then sums [4][16][16]
  T* const left = shared;
  T* const right = shared + kSide * kPad;
  const int n = static_cast<int>(blockIdx.x);
  int block_c = 0, block_d = static_cast<int>(blockIdx.y);
  while (block_d > block_c) block_d -= ++block_c;
  const int c0 = block_c * kSide, d0 = block_d * kSide;
  const int part = threadIdx.x / 64, x = threadIdx.x % 8 * 2, y = threadIdx.x % 64 / 8 * 2;
  T sums[2][2] = {};
  for (int q = 0; q < groups; ++q) {
    const T* weights = w + (static_cast<int64_t>(q) * samples + n) * outputs;
    for (int begin = 0; begin < outputs; begin += kDepth) {
      __syncthreads();  // nobody reads the last terms any more
      for (int place = threadIdx.x; place < kSide * kDepth; place += kThreads) {
        const int row = place / kDepth, i = begin + place % kDepth;
        const auto entry = [&](int column) {
          return i < outputs && column < columns
                     ? g[((static_cast<int64_t>(q) * columns + column) * samples + n) * outputs + i]
                     : T(0);
        };
        left[row * kPad + place % kDepth] = entry(c0 + row);
        right[row * kPad + place % kDepth] = i < outputs ? entry(d0 + row) * weights[i] : T(0);
      }
      __syncthreads();
#pragma unroll
      for (int k = part * (kDepth / kParts); k < (part + 1) * (kDepth / kParts); ++k)
#pragma unroll
        for (int a = 0; a < 2; ++a)
#pragma unroll
          for (int b = 0; b < 2; ++b)
            sums[a][b] += left[(y + a) * kPad + k] * right[(x + b) * kPad + k];
    }
  }
  __syncthreads();
  for (int a = 0; a < 2; ++a)
    for (int b = 0; b < 2; ++b) shared[(part * kSide + y + a) * kSide + x + b] = sums[a][b];
  __syncthreads();
  const int c = c0 + static_cast<int>(threadIdx.x) / kSide, d = d0 + threadIdx.x % kSide;
  if (c >= columns || d > c) return;
  T sum = 0;
  for (int p = 0; p < kParts; ++p) sum += shared[p * kSide * kSide + threadIdx.x];
  T* const covariance = out + static_cast<int64_t>(n) * columns * columns;
  covariance[static_cast<int64_t>(c) * columns + d] += sum;
  if (c != d) covariance[static_cast<int64_t>(d) * columns + c] += sum;
}

template <class T>
int run(const T* g, const T* w, int64_t groups, int64_t columns, int64_t samples, int64_t outputs,
        T* out, cudaStream_t stream) {
  const auto side = ceil_div(columns, kSide);
  if (groups < 0 || columns < 0 || samples < 0 || outputs < 0 || side * (side + 1) / 2 > 65535 ||
      samples > INT32_MAX || outputs > INT32_MAX / 2 || groups > INT32_MAX)
    return kInvalidValue;
  if (groups == 0 || columns == 0 || samples == 0) return 0;
  const dim3 grid(static_cast<unsigned>(samples), static_cast<unsigned>(side * (side + 1) / 2));
  return launch(covariance_kernel<T>, grid, kThreads, sizeof(T) * 2 * kSide * kPad, stream, g, w,
                static_cast<int>(groups), static_cast<int>(columns), static_cast<int>(samples),
                static_cast<int>(outputs), out);
}

}  // namespace

int output_covariance(const float* g, const float* w, int64_t groups, int64_t columns,
                      int64_t samples, int64_t outputs, float* out, cudaStream_t stream) {
  return run(g, w, groups, columns, samples, outputs, out, stream);
}
int output_covariance(const double* g, const double* w, int64_t groups, int64_t columns,
                      int64_t samples, int64_t outputs, double* out, cudaStream_t stream) {
  return run(g, w, groups, columns, samples, outputs, out, stream);
}

}  // namespace evariste::EVARISTE_CUDA_NAMESPACE
