// K5: the folded backward pass of a rectifier, its mask one bit an entry.
#include "laplace/cuda/device.cuh"

namespace evariste::EVARISTE_CUDA_NAMESPACE {
namespace {

constexpr int kThreads = 256;
constexpr int kFoldsEach = 4;  // folds of a thread: their loads are in flight together

/// A warp makes one word of 32 entries by a ballot.
template <class T>
__global__ void __launch_bounds__(kThreads)
    pack_positive_kernel(const T* x, int64_t count, uint32_t* bits) {
  const int64_t words = (count + kWarp - 1) / kWarp;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / kWarp);
  const int lane = threadIdx.x % kWarp;
  for (int64_t w = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
       w < words; w += warps) {
    const int64_t i = w * kWarp + lane;
    const unsigned word = __ballot_sync(kWholeWarp, i < count && x[i] > 0);
    if (lane == 0) bits[w] = word;
  }
}

/// Block (chunk of entries, kFoldsEach folds): kVector entries a thread, whose bits it reads once.
template <class T, int kVector, bool kSkip>
__global__ void __launch_bounds__(kThreads)
    masked_backward_kernel(const T* g, const uint32_t* bits, const T* skip, T scale, int folds,
                           int64_t count, T* out) {
  using Chunk = Pack<T, kVector>;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVector;
  if (i >= count) return;
  const uint32_t mask = bits[i / 32] >> (i % 32);
  const int first = static_cast<int>(blockIdx.y) * kFoldsEach;
  Chunk values[kFoldsEach], added[kFoldsEach];
#pragma unroll
  for (int r = 0; r < kFoldsEach; ++r) {
    if (first + r >= folds) break;
    values[r] = *reinterpret_cast<const Chunk*>(g + (first + r) * count + i);
    if constexpr (kSkip) added[r] = *reinterpret_cast<const Chunk*>(skip + (first + r) * count + i);
  }
#pragma unroll
  for (int r = 0; r < kFoldsEach; ++r) {
    if (first + r >= folds) break;
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      // Rounded as a product and a sum, as on the host: no fused multiply-add.
      const T product = (mask >> e & 1) != 0 ? values[r].at[e] * scale : T(0);
      if constexpr (kSkip)
        values[r].at[e] = add_rounded(product, added[r].at[e]);
      else
        values[r].at[e] = product;
    }
    *reinterpret_cast<Chunk*>(out + (first + r) * count + i) = values[r];
  }
}

template <class T>
int run_pack(const T* x, int64_t count, uint32_t* bits, cudaStream_t stream) {
  if (count < 0) return kInvalidValue;
  if (count == 0) return 0;
  const auto blocks = std::min<int64_t>(ceil_div(count, kThreads), 8192);
  return launch(pack_positive_kernel<T>, dim3(static_cast<unsigned>(blocks)), kThreads, 0, stream,
                x, count, bits);
}

template <class T>
int run_masked(const T* g, const uint32_t* bits, const T* skip, double scale, int64_t folds,
               int64_t count, T* out, cudaStream_t stream) {
  constexpr int kWide = 16 / sizeof(T);
  const auto rows = ceil_div(folds, kFoldsEach);
  if (folds < 0 || count < 0 || rows > 65535) return kInvalidValue;
  if (folds == 0 || count == 0) return 0;
  const auto place = reinterpret_cast<uintptr_t>(g) | reinterpret_cast<uintptr_t>(skip) |
                     reinterpret_cast<uintptr_t>(out);
  const bool is_wide = count % kWide == 0 && place % 16 == 0;
  const auto chunks = ceil_div(ceil_div(count, is_wide ? kWide : 1), kThreads);
  if (chunks > INT32_MAX) return kInvalidValue;
  const dim3 grid(static_cast<unsigned>(chunks), static_cast<unsigned>(rows));
  const auto run = [&](auto kernel) {
    return launch(kernel, grid, kThreads, 0, stream, g, bits, skip, static_cast<T>(scale),
                  static_cast<int>(folds), count, out);
  };
  if (is_wide)
    return skip ? run(masked_backward_kernel<T, kWide, true>)
                : run(masked_backward_kernel<T, kWide, false>);
  return skip ? run(masked_backward_kernel<T, 1, true>) : run(masked_backward_kernel<T, 1, false>);
}

}  // namespace

int pack_positive(const float* x, int64_t count, uint32_t* bits, cudaStream_t stream) {
  return run_pack(x, count, bits, stream);
}
int pack_positive(const double* x, int64_t count, uint32_t* bits, cudaStream_t stream) {
  return run_pack(x, count, bits, stream);
}
int masked_backward(const float* g, const uint32_t* bits, const float* skip, double scale,
                    int64_t folds, int64_t count, float* out, cudaStream_t stream) {
  return run_masked(g, bits, skip, scale, folds, count, out, stream);
}
int masked_backward(const double* g, const uint32_t* bits, const double* skip, double scale,
                    int64_t folds, int64_t count, double* out, cudaStream_t stream) {
  return run_masked(g, bits, skip, scale, folds, count, out, stream);
}

}  // namespace evariste::EVARISTE_CUDA_NAMESPACE
