// K4: columns of the Hessian of -log p(y|f) in f. A warp for each sample.
#include "laplace/cuda/device.cuh"

namespace evariste::EVARISTE_CUDA_NAMESPACE {
namespace {

constexpr size_t kMostShared = 227 * 1024;

/// p = softmax f of one sample, by one warp.
template <class T>
__device__ void warp_softmax(const T* f, int classes, int lane, T* p) {
  T largest = f[0];
  for (int c = lane; c < classes; c += kWarp) largest = f[c] > largest ? f[c] : largest;
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const T other = __shfl_xor_sync(kWholeWarp, largest, offset);
    largest = other > largest ? other : largest;
  }
  T sum = 0;
  for (int c = lane; c < classes; c += kWarp) {
    p[c] = exp(f[c] - largest);
    sum += p[c];
  }
  sum = warp_sum(sum);
  for (int c = lane; c < classes; c += kWarp) p[c] /= sum;
  __syncwarp();
}

template <class T>
__global__ void softmax_root_kernel(const T* f, int samples, int classes, T* out) {
  EVARISTE_SHARED(T, shared);  // a warp: p, from, factor, [C] each
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int n = static_cast<int>(blockIdx.x * (blockDim.x / kWarp)) + warp;
  if (n >= samples) return;
  T* const p = shared + 3 * static_cast<size_t>(warp) * classes;
  T* const from = p + classes;  // sum_{i>=j} p_i = q_{j-1}
  T* const factor = from + classes;
  warp_softmax(f + static_cast<int64_t>(n) * classes, classes, lane, p);

  T after = 0;  // what the chunks behind sum to: added from the end, as 1 - sum would cancel
  for (int begin = (classes - 1) / kWarp * kWarp; begin >= 0; begin -= kWarp) {
    T sum = begin + lane < classes ? p[begin + lane] : T(0);
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const T next = __shfl_down_sync(kWholeWarp, sum, offset);
      if (lane + offset < kWarp) sum += next;
    }
    sum += after;
    if (begin + lane < classes) from[begin + lane] = sum;
    after = __shfl_sync(kWholeWarp, sum, 0);
  }
  __syncwarp();
  // Below it the column is smaller than the square root of the smallest number: zero.
  constexpr T kLeast = sizeof(T) == 8 ? T(1e-290) : T(1e-32);
  for (int j = lane; j < classes - 1; j += kWarp) {
    const T product = from[j] * from[j + 1];
    factor[j] = product > kLeast ? sqrt(p[j] / product) : T(0);
  }
  __syncwarp();
  for (int j = 0; j < classes - 1; ++j) {
    T* const row = out + (static_cast<int64_t>(j) * samples + n) * classes;
    const T diagonal = from[j] > 0 ? sqrt(p[j] * from[j + 1] / from[j]) : T(0);
    for (int i = lane; i < classes; i += kWarp)
      row[i] = i < j ? T(0) : i == j ? diagonal : -p[i] * factor[j];
  }
  if (classes == 1 && lane == 0) out[n] = 0;
}

__device__ inline uint64_t split_mix_64(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

/// Number `counter` of the stream split(index) of `key`, uniform on [0, 1).
__device__ inline double uniform(uint64_t key, uint64_t index, uint64_t counter) {
  const auto stream = split_mix_64(key ^ split_mix_64(index + 1));
  const auto bits = split_mix_64(stream + 0x9e3779b97f4a7c15ull * counter);
  return static_cast<double>(bits >> 11) * (1.0 / 9007199254740992.0);
}

template <class T>
__global__ void sampled_scores_kernel(const T* f, int samples, int classes, int draws, uint64_t key,
                                      int64_t first, T* out) {
  EVARISTE_SHARED(double, shared);  // a warp: cumulative [C] and p [C]
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int n = static_cast<int>(blockIdx.x * (blockDim.x / kWarp)) + warp;
  if (n >= samples) return;
  double* const cumulative = shared + 2 * static_cast<size_t>(warp) * classes;
  T* const p = reinterpret_cast<T*>(cumulative + classes);
  warp_softmax(f + static_cast<int64_t>(n) * classes, classes, lane, p);
  double before = 0;
  for (int begin = 0; begin < classes; begin += kWarp) {
    double sum = begin + lane < classes ? static_cast<double>(p[begin + lane]) : 0.0;
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const double previous = __shfl_up_sync(kWholeWarp, sum, offset);
      if (lane >= offset) sum += previous;
    }
    sum += before;
    if (begin + lane < classes) cumulative[begin + lane] = sum;
    before = __shfl_sync(kWholeWarp, sum, kWarp - 1);
  }
  __syncwarp();
  const T scale = sqrt(static_cast<T>(draws));
  for (int s = 0; s < draws; ++s) {
    const double u = uniform(key, static_cast<uint64_t>(first + n), static_cast<uint64_t>(s));
    int below = 0;
    for (int c = lane; c < classes; c += kWarp) below += u > cumulative[c] ? 1 : 0;
    below = warp_sum(below);
    const int label = below < classes - 1 ? below : classes - 1;
    T* const row = out + (static_cast<int64_t>(s) * samples + n) * classes;
    for (int c = lane; c < classes; c += kWarp)
      row[c] = ((c == label ? T(1) : T(0)) - p[c]) / scale;
  }
}

template <class T>
__global__ void score_kernel(const T* f, const int64_t* labels, int samples, int classes, T* out) {
  EVARISTE_SHARED(T, shared);  // a warp: p [C]
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int n = static_cast<int>(blockIdx.x * (blockDim.x / kWarp)) + warp;
  if (n >= samples) return;
  T* const p = shared + static_cast<size_t>(warp) * classes;
  warp_softmax(f + static_cast<int64_t>(n) * classes, classes, lane, p);
  const int64_t label = labels[n];
  T* const row = out + static_cast<int64_t>(n) * classes;
  for (int c = lane; c < classes; c += kWarp) row[c] = (c == label ? T(1) : T(0)) - p[c];
}

template <class T>
__global__ void __launch_bounds__(256)
    bernoulli_root_kernel(const T* f, int64_t entries, int classes, int64_t all, T* out) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < all;
       i += step) {
    const int64_t column = i / entries, place = i % entries;  // place = n C + c
    T value = 0;
    if (place % classes == column) {
      const T s = T(1) / (T(1) + exp(-f[place]));
      const T t = T(1) / (T(1) + exp(f[place]));  // 1 - s without cancellation
      value = sqrt(s * t);
    }
    out[i] = value;
  }
}

/// Warps in a block so that `bytes` of shared memory each stay within what every card has.
int warps_of(size_t bytes) {
  return static_cast<int>(std::clamp<size_t>(48 * 1024 / std::max<size_t>(bytes, 1), 1, 8));
}

template <class Kernel, class... Arguments>
int launch_warps(Kernel kernel, int64_t samples, int64_t classes, size_t bytes_each,
                 cudaStream_t stream, Arguments... arguments) {
  if (samples < 0 || classes < 1 || samples > INT32_MAX || bytes_each > kMostShared)
    return kInvalidValue;
  if (samples == 0) return 0;
  const int warps = warps_of(bytes_each);
  return launch(kernel, dim3(static_cast<unsigned>(ceil_div(samples, warps))),
                static_cast<unsigned>(warps * kWarp), bytes_each * static_cast<size_t>(warps),
                stream, arguments...);
}

template <class T>
int run_root(const T* f, int64_t samples, int64_t classes, T* out, cudaStream_t stream) {
  return launch_warps(softmax_root_kernel<T>, samples, classes,
                      3 * sizeof(T) * static_cast<size_t>(classes), stream, f,
                      static_cast<int>(samples), static_cast<int>(classes), out);
}

template <class T>
int run_sampled(const T* f, int64_t samples, int64_t classes, int64_t draws, uint64_t key,
                int64_t first, T* out, cudaStream_t stream) {
  if (draws < 1 || draws > INT32_MAX) return kInvalidValue;
  return launch_warps(sampled_scores_kernel<T>, samples, classes,
                      2 * sizeof(double) * static_cast<size_t>(classes), stream, f,
                      static_cast<int>(samples), static_cast<int>(classes), static_cast<int>(draws),
                      key, first, out);
}

template <class T>
int run_score(const T* f, const int64_t* labels, int64_t samples, int64_t classes, T* out,
              cudaStream_t stream) {
  return launch_warps(score_kernel<T>, samples, classes, sizeof(T) * static_cast<size_t>(classes),
                      stream, f, labels, static_cast<int>(samples), static_cast<int>(classes), out);
}

template <class T>
int run_bernoulli(const T* f, int64_t samples, int64_t classes, T* out, cudaStream_t stream) {
  if (samples < 0 || classes < 1 || classes > INT32_MAX) return kInvalidValue;
  const auto all = samples * classes * classes;
  if (all == 0) return 0;
  return launch(bernoulli_root_kernel<T>,
                dim3(static_cast<unsigned>(std::min<int64_t>(ceil_div(all, 256), 4096))), 256, 0,
                stream, f, samples * classes, static_cast<int>(classes), all, out);
}

}  // namespace

int softmax_root(const float* f, int64_t samples, int64_t classes, float* out,
                 cudaStream_t stream) {
  return run_root(f, samples, classes, out, stream);
}
int softmax_root(const double* f, int64_t samples, int64_t classes, double* out,
                 cudaStream_t stream) {
  return run_root(f, samples, classes, out, stream);
}
int softmax_sampled_scores(const float* f, int64_t samples, int64_t classes, int64_t draws,
                           uint64_t key, int64_t first, float* out, cudaStream_t stream) {
  return run_sampled(f, samples, classes, draws, key, first, out, stream);
}
int softmax_sampled_scores(const double* f, int64_t samples, int64_t classes, int64_t draws,
                           uint64_t key, int64_t first, double* out, cudaStream_t stream) {
  return run_sampled(f, samples, classes, draws, key, first, out, stream);
}
int softmax_score(const float* f, const int64_t* labels, int64_t samples, int64_t classes,
                  float* out, cudaStream_t stream) {
  return run_score(f, labels, samples, classes, out, stream);
}
int softmax_score(const double* f, const int64_t* labels, int64_t samples, int64_t classes,
                  double* out, cudaStream_t stream) {
  return run_score(f, labels, samples, classes, out, stream);
}
int bernoulli_root(const float* f, int64_t samples, int64_t classes, float* out,
                   cudaStream_t stream) {
  return run_bernoulli(f, samples, classes, out, stream);
}
int bernoulli_root(const double* f, int64_t samples, int64_t classes, double* out,
                   cudaStream_t stream) {
  return run_bernoulli(f, samples, classes, out, stream);
}

}  // namespace evariste::EVARISTE_CUDA_NAMESPACE
