// What the kernels use of the device beyond C++: launches, asynchronous copies, tensor cores.
//
// The same kernels compile for the host with EVARISTE_CUDA_EMULATION (emulation.cuh), which is how
// machines without a card test them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "laplace/cuda/kernels.h"

#ifdef EVARISTE_CUDA_EMULATION
#include "laplace/cuda/emulation.cuh"
#else

#include <cuda_runtime.h>

namespace evariste::cuda {

/// The block's dynamic shared memory, 16-byte aligned.
#define EVARISTE_SHARED(T, name)                                         \
  extern __shared__ __align__(16) unsigned char dynamic_shared_memory[]; \
  T* name = reinterpret_cast<T*>(dynamic_shared_memory)

/// kernel(arguments...) on `threads` threads in each block of the grid; returns the launch's error.
template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, size_t shared,
           cudaStream_t stream, Arguments... arguments) {
  if (shared > 48 * 1024) {
    const auto error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            static_cast<int>(shared));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid, config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared, config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

/// kBytes (4, 8 or 16) from global to shared memory in the background, or zeros. `from` may be
/// anything where `valid` is false.
template <int kBytes>
__device__ inline void copy_async(void* to, const void* from, bool valid) {
  const auto shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
  const int bytes = valid ? kBytes : 0;  // the rest is filled with zeros
  if constexpr (kBytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from),
                 "r"(bytes)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared), "l"(from),
                 "n"(kBytes), "r"(bytes)
                 : "memory");
}
/// The copies since the last call are a group.
__device__ inline void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// All but the latest kGroups groups of this thread have arrived.
template <int kGroups>
__device__ inline void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

/// d += a b on a warp's tensor core: [16, 16] [16, 8] bfloat16, float32 sums. With g = lane / 4,
/// t = lane % 4, lower half of a register first:
///   a[0] (g, 2t) (g, 2t+1)   a[1] (g+8, 2t) ..   a[2] (g, 2t+8) ..   a[3] (g+8, 2t+8) ..
///   b[0] (2t, g) (2t+1, g)   b[1] (2t+8, g) ..
///   d[0] (g, 2t)  d[1] (g, 2t+1)  d[2] (g+8, 2t)  d[3] (g+8, 2t+1)
__device__ inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/// The same in tf32, [16, 8] [8, 8]:
///   a[0] (g, t)  a[1] (g+8, t)  a[2] (g, t+4)  a[3] (g+8, t+4)    b[0] (t, g)  b[1] (t+4, g)
__device__ inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// Two floats rounded to bfloat16 in one register, `low` in its lower half.
__device__ inline uint32_t to_bf16_pair(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
__device__ inline uint32_t to_tf32(float x) {
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(x));
  return rounded;
}

/// a + b, never part of a fused multiply-add.
__device__ inline float add_rounded(float a, float b) { return __fadd_rn(a, b); }
__device__ inline double add_rounded(double a, double b) { return __dadd_rn(a, b); }

constexpr unsigned kWholeWarp = 0xffffffffu;

}  // namespace evariste::cuda
#endif

namespace evariste::EVARISTE_CUDA_NAMESPACE {

constexpr int kWarp = 32;
constexpr int kInvalidValue = 1;  // cudaErrorInvalidValue

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Before a template for both sides whose arguments are functions of one of them.
#ifdef __CUDACC__
#define EVARISTE_ANY_SIDE _Pragma("nv_exec_check_disable")
#else
#define EVARISTE_ANY_SIDE
#endif

/// Quotients of non-negative numbers below 2^31 by a multiplication (Granlund & Montgomery 1994).
class Divisor {
 public:
  __device__ explicit Divisor(int divisor) : divisor_(divisor), shift_(0) {
    const auto d = static_cast<unsigned long long>(divisor);
    while ((1ull << shift_) < d) ++shift_;
    factor_ = static_cast<unsigned>(((1ull << 32) * ((1ull << shift_) - d)) / d + 1);
  }
  __device__ int divide(int x) const {
    const auto u = static_cast<unsigned>(x);
    return static_cast<int>((__umulhi(u, factor_) + u) >> shift_);
  }
  __device__ int value() const { return divisor_; }

 private:
  int divisor_, shift_;
  unsigned factor_;
};

/// Sum over the lanes of a warp, the same bits in all of them.
template <class T>
__device__ inline T warp_sum(T x) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kWholeWarp, x, offset);
  return x;
}

/// kCount numbers that are read at once.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T at[kCount];
};

}  // namespace evariste::EVARISTE_CUDA_NAMESPACE
