// K8: log-determinant, effective dimension, its slope and the cotangents of one Kronecker block.
//
// A block takes kRows x 256 eigenvalues, a thread one column of them: sums over columns stay in a
// register, sums over rows are put together by the warps. All blocks' parts are added in a fixed
// order by the second kernel.
#include "laplace/cuda/device.cuh"

namespace evariste::EVARISTE_CUDA_NAMESPACE {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kRows = 32;

struct Plan {
  int64_t rows, columns;  // blocks down and across
  Plan(int64_t outputs, int64_t inputs)
      : rows(ceil_div(outputs, kRows)), columns(ceil_div(inputs, kThreads)) {}
};

/// Sum over the block, in thread 0.
__device__ inline double block_sum(double x, double* shared) {
  x = warp_sum(x);
  __syncthreads();  // `shared` may still be read from the last time
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = x;
  __syncthreads();
  double sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += shared[w];
  return sum;
}

/// Block (column block, row block, q). parts [3][q][row block][column block], row_parts
/// [q][column block][O], column_parts [q][row block][J].
template <class T, bool kSpectrum, bool kCotangents>
__global__ void __launch_bounds__(kThreads)
    spectral_kernel(const T* alpha, const T* beta, const T* spectrum, int outputs, int inputs,
                    double scale, double delta, double* parts, double* row_parts,
                    double* column_parts) {
  EVARISTE_SHARED(double, shared);  // [kWarps][kRows], then [kWarps]
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t q = blockIdx.z;
  const int j = static_cast<int>(blockIdx.x) * kThreads + threadIdx.x;
  const int begin = static_cast<int>(blockIdx.y) * kRows;
  const int end = begin + kRows < outputs ? begin + kRows : outputs;
  const bool is_inside = j < inputs;
  const double a = !kSpectrum && is_inside ? static_cast<double>(alpha[q * inputs + j]) : 0.0;
  double log1p_sum = 0, effective = 0, slope = 0, column = 0;
  for (int i = begin; i < end; ++i) {
    double row = 0;
    if (is_inside) {
      const double b = kSpectrum ? 0.0 : static_cast<double>(beta[q * outputs + i]);
      const double lambda =
          scale *
          (kSpectrum ? static_cast<double>(spectrum[(q * outputs + i) * inputs + j]) : b * a);
      const double inverse = 1 / (lambda + delta), share = lambda * inverse;
      log1p_sum += log1p(lambda / delta);
      effective += share;
      slope += share * (delta * inverse);
      column += b * inverse;
      row = a * inverse;
    }
    if constexpr (kCotangents) {
      row = warp_sum(row);
      if (lane == 0) shared[warp * kRows + i - begin] = row;
    }
  }
  const int64_t place = (q * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const int64_t all = static_cast<int64_t>(gridDim.x) * gridDim.y * gridDim.z;
  if constexpr (kCotangents) {
    if (is_inside) column_parts[(q * gridDim.y + blockIdx.y) * inputs + j] = column;
    __syncthreads();
    const int i = begin + static_cast<int>(threadIdx.x);
    if (i < end) {
      double sum = 0;
      for (int w = 0; w < kWarps; ++w) sum += shared[w * kRows + threadIdx.x];
      row_parts[(q * gridDim.x + blockIdx.x) * outputs + i] = sum;
    }
  }
  double* const small = shared + kWarps * kRows;
  log1p_sum = block_sum(log1p_sum, small);
  effective = block_sum(effective, small);
  slope = block_sum(slope, small);
  if (threadIdx.x == 0) {
    parts[place] = log1p_sum;
    parts[all + place] = effective;
    parts[2 * all + place] = slope;
  }
}

/// Block b < 3: sums[b], the parts dealt out to the threads in order.
__global__ void __launch_bounds__(kThreads)
    add_parts(const double* parts, int64_t count, double* sums) {
  EVARISTE_SHARED(double, shared);
  const double* from = parts + blockIdx.x * count;
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += from[i];
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

/// out[q, i] = half sum_b parts[q, b, i]
__global__ void __launch_bounds__(kThreads)
    add_cotangents(const double* parts, int64_t groups, int blocks, int size, double half,
                   double* out) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= groups * size) return;
  const int64_t q = index / size, i = index % size;
  double sum = 0;
  for (int b = 0; b < blocks; ++b) sum += parts[(q * blocks + b) * size + i];
  out[index] = half * sum;
}

template <class T>
int run(const T* alpha, const T* beta, const T* spectrum, int64_t groups, int64_t outputs,
        int64_t inputs, double scale, double delta, double* sums, double* cotangent_b,
        double* cotangent_a, void* workspace, size_t bytes, cudaStream_t stream) {
  const Plan plan(outputs, inputs);
  const bool both = cotangent_a && cotangent_b, none = !cotangent_a && !cotangent_b;
  if (groups < 1 || outputs < 1 || inputs < 1 || groups > 65535 || plan.rows > 65535 ||
      inputs > INT32_MAX / 2 || !(delta > 0) || !(both || none) || (spectrum && both) ||
      bytes < spectral_sums_workspace_bytes(groups, outputs, inputs))
    return kInvalidValue;
  const auto blocks = groups * plan.rows * plan.columns;
  auto* const parts = static_cast<double*>(workspace);
  auto* const row_parts = parts + 3 * blocks;
  auto* const column_parts = row_parts + groups * plan.columns * outputs;
  const dim3 grid(static_cast<unsigned>(plan.columns), static_cast<unsigned>(plan.rows),
                  static_cast<unsigned>(groups));
  const auto start = [&](auto kernel) {
    return launch(kernel, grid, kThreads, sizeof(double) * (kWarps * kRows + kWarps), stream, alpha,
                  beta, spectrum, static_cast<int>(outputs), static_cast<int>(inputs), scale, delta,
                  parts, row_parts, column_parts);
  };
  int error = spectrum ? start(spectral_kernel<T, true, false>)
              : both   ? start(spectral_kernel<T, false, true>)
                       : start(spectral_kernel<T, false, false>);
  if (!error)
    error =
        launch(add_parts, dim3(3), kThreads, sizeof(double) * kWarps, stream, parts, blocks, sums);
  if (error || none) return error;
  const auto add = [&](const double* from, int64_t count, int64_t size, double* to) {
    return launch(add_cotangents, dim3(static_cast<unsigned>(ceil_div(groups * size, kThreads))),
                  kThreads, 0, stream, from, groups, static_cast<int>(count),
                  static_cast<int>(size), 0.5 * scale, to);
  };
  error = add(row_parts, plan.columns, outputs, cotangent_b);
  return error ? error : add(column_parts, plan.rows, inputs, cotangent_a);
}

}  // namespace

size_t spectral_sums_workspace_bytes(int64_t groups, int64_t outputs, int64_t inputs) {
  const Plan plan(outputs, inputs);
  return sizeof(double) *
         static_cast<size_t>(
             groups * (3 * plan.rows * plan.columns + plan.columns * outputs + plan.rows * inputs));
}

int spectral_sums(const float* alpha, const float* beta, const float* spectrum, int64_t groups,
                  int64_t outputs, int64_t inputs, double scale, double delta, double* sums,
                  double* cotangent_b, double* cotangent_a, void* workspace, size_t workspace_bytes,
                  cudaStream_t stream) {
  return run(alpha, beta, spectrum, groups, outputs, inputs, scale, delta, sums, cotangent_b,
             cotangent_a, workspace, workspace_bytes, stream);
}
int spectral_sums(const double* alpha, const double* beta, const double* spectrum, int64_t groups,
                  int64_t outputs, int64_t inputs, double scale, double delta, double* sums,
                  double* cotangent_b, double* cotangent_a, void* workspace, size_t workspace_bytes,
                  cudaStream_t stream) {
  return run(alpha, beta, spectrum, groups, outputs, inputs, scale, delta, sums, cotangent_b,
             cotangent_a, workspace, workspace_bytes, stream);
}

}  // namespace evariste::EVARISTE_CUDA_NAMESPACE
