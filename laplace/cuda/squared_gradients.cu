// K7: sums of squared per-sample gradients of a shared weight. See product.cuh for the tile.
//
// A block owns 64 x 64 weights and runs through its (column, sample) pairs without a pause: the
// rows of the product are the positions of one pair after the other, each filled up to whole steps
// with zeros, and at the end of a pair the tile is squared, added up and cleared, in registers.
#include "laplace/cuda/product.cuh"

namespace evariste::EVARISTE_CUDA_NAMESPACE {
namespace {

constexpr int kTile = 64;
constexpr int64_t kBlocks = 528;
constexpr int64_t kMostPairs = 1024;

struct Plan {
  int64_t tiles_o, tiles_j, splits, pairs;  // pairs of a split
  Plan(int64_t groups, int64_t folds, int64_t samples, int64_t outputs, int64_t inputs) {
    tiles_o = ceil_div(outputs, kTile), tiles_j = ceil_div(inputs, kTile);
    const auto all = std::max<int64_t>(folds * samples, 1);
    const auto filling = ceil_div(kBlocks, tiles_o * tiles_j * groups);
    pairs = std::clamp<int64_t>(ceil_div(all, filling), 1, kMostPairs);
    splits = ceil_div(all, pairs);
  }
};

/// The patches of an image as rows, and what they have in common with features that lie in memory.
struct Patches {
  int height, width, kernel_x, stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x;
  int out_width, channels, entries;  // of a group; kernel entries
  int64_t all_channels;
};

/// Rows are positions of one (column, sample) pair after the other; columns of L are outputs, of R
/// inputs, where patches are in the order (y, x, c).
template <class T, bool kConvolution>
struct Pairs {
  const T *g, *features;  // of the group
  int samples, positions, outputs, inputs, o0, j0, first_pair, count;
  Patches patches;
  Divisor padded, sample_count, line;
  static constexpr bool same = false;

  struct Row {
    const T *g, *features;
    int y, x;
    bool valid;
  };
  struct Left {
    int column;
    bool valid;
  };
  struct Right {
    int64_t shift;
    int y, x;
    bool valid;
  };
  __device__ Left left(int m) const { return {o0 + m, o0 + m < outputs}; }
  __device__ Right right(int n) const {
    const int j = j0 + n;
    if constexpr (kConvolution) {
      const int entry = j / patches.channels;
      const int y = entry / patches.kernel_x * patches.dilation_y;
      const int x = entry % patches.kernel_x * patches.dilation_x;
      return {(static_cast<int64_t>(y) * patches.width + x) * patches.all_channels +
                  j % patches.channels,
              y, x, j < inputs};
    } else {
      return {j, 0, 0, j < inputs};
    }
  }
  __device__ Row row(int k) const {
    const int own = padded.divide(k), t = k - own * padded.value();
    const int pair = first_pair + own, sample = pair % sample_count.value();
    const bool valid = t < positions && own < count;
    const T* at = g + (static_cast<int64_t>(pair) * positions + t) * outputs;
    if constexpr (kConvolution) {
      const int out_y = line.divide(t);
      const int y = out_y * patches.stride_y - patches.padding_y;
      const int x = (t - out_y * line.value()) * patches.stride_x - patches.padding_x;
      return {at,
              features + ((static_cast<int64_t>(sample) * patches.height + y) * patches.width + x) *
                             patches.all_channels,
              y, x, valid};
    } else {
      return {at, features + (static_cast<int64_t>(sample) * positions + t) * inputs, 0, 0, valid};
    }
  }
  __device__ const T* at(const Row& row, const Left& column, bool& valid) const {
    valid = valid && row.valid && column.valid;
    return row.g + column.column;
  }
  __device__ const T* at(const Row& row, const Right& column, bool& valid) const {
    valid = valid && row.valid && column.valid;
    if constexpr (kConvolution)
      valid = valid &&
              static_cast<unsigned>(row.y + column.y) < static_cast<unsigned>(patches.height) &&
              static_cast<unsigned>(row.x + column.x) < static_cast<unsigned>(patches.width);
    return row.features + column.shift;
  }
};

/// Block (tile, split, q) -> partial[split][q][o][j], j in the order of the features' columns.
template <class T, bool kConvolution, int kVector>
__global__ void __launch_bounds__(256)
    squares_kernel(const T* g, const T* features, int folds, int samples, int positions,
                   int outputs, int inputs, const Patches patches, int tiles_j, int pairs_each,
                   T* partial) {
  const int64_t q = blockIdx.z;
  const int all = folds * samples, first = static_cast<int>(blockIdx.y) * pairs_each;
  const int count = first + pairs_each < all ? pairs_each : all - first;
  const int padded = (positions + kDepth - 1) / kDepth * kDepth;
  const int o0 = static_cast<int>(blockIdx.x) / tiles_j * kTile;
  const int j0 = static_cast<int>(blockIdx.x) % tiles_j * kTile;
  const T* from =
      kConvolution ? features + q * patches.channels : features + q * samples * positions * inputs;
  const Pairs<T, kConvolution> source{g + q * all * positions * outputs,
                                      from,
                                      samples,
                                      positions,
                                      outputs,
                                      inputs,
                                      o0,
                                      j0,
                                      first,
                                      count,
                                      patches,
                                      Divisor(padded),
                                      Divisor(samples),
                                      Divisor(kConvolution ? patches.out_width : 1)};
  using Tile = Sums<T, Precision::kStrict, kTile, kTile>;
  Tile sums, squares;
  const int steps = padded / kDepth;
  int left = steps;
  add_product<Precision::kStrict, kTile, kTile, kVector>(source, 0, count * padded, sums, [&](int) {
    if (--left > 0) return;
    left = steps;
    squares.take_squares(sums);
  });
  T* const out = partial + (blockIdx.y * static_cast<int64_t>(gridDim.z) + q) * outputs * inputs;
  squares.for_each([&](int m, int n, T value) {
    if (o0 + m < outputs && j0 + n < inputs)
      out[static_cast<int64_t>(o0 + m) * inputs + j0 + n] = value;
  });
}

/// out[i] = sum over splits; patches' columns from (entry, c) to (c, entry).
template <class T>
__global__ void __launch_bounds__(256)
    sum_splits(const T* partial, int64_t count, int splits, int inputs, int channels, int entries,
               bool accumulate, double* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  double sum = 0;
  for (int s = 0; s < splits; ++s) sum += static_cast<double>(partial[s * count + i]);
  const int j = static_cast<int>(i % inputs);
  const int64_t to = i - j + (j % channels) * entries + j / channels;
  out[to] = accumulate ? out[to] + sum : sum;
}

template <class T, bool kConvolution>
int run(const T* g, const T* features, int64_t groups, int64_t folds, int64_t samples,
        int64_t positions, int64_t outputs, int64_t inputs, const Patches& patches, double* out,
        bool accumulate, void* workspace, size_t bytes, cudaStream_t stream) {
  if (groups < 1 || folds < 1 || samples < 1 || positions < 1 || outputs < 1 || inputs < 1)
    return kInvalidValue;
  const Plan plan(groups, folds, samples, outputs, inputs);
  const auto padded = ceil_div(positions, kDepth) * kDepth;
  if (groups > 65535 || plan.splits > 65535 || plan.pairs * padded > INT32_MAX / 2 ||
      folds * samples > INT32_MAX / 2 || inputs > INT32_MAX / 2 || outputs > INT32_MAX / 2 ||
      bytes < squared_gradients_workspace_bytes(groups, folds, samples, outputs, inputs, sizeof(T)))
    return kInvalidValue;
  T* const partial = static_cast<T*>(workspace);
  constexpr int kWide = 16 / sizeof(T);
  const auto unit = kConvolution ? patches.channels : inputs;
  const bool is_wide =
      outputs % kWide == 0 && unit % kWide == 0 &&
      (!kConvolution || patches.all_channels % kWide == 0) &&
      (reinterpret_cast<uintptr_t>(g) | reinterpret_cast<uintptr_t>(features)) % 16 == 0;
  const dim3 grid(static_cast<unsigned>(plan.tiles_o * plan.tiles_j),
                  static_cast<unsigned>(plan.splits), static_cast<unsigned>(groups));
  const auto start = [&](auto kernel) {
    return launch(kernel, grid, 256, product_shared_bytes<T, kTile, kTile>(), stream, g, features,
                  static_cast<int>(folds), static_cast<int>(samples), static_cast<int>(positions),
                  static_cast<int>(outputs), static_cast<int>(inputs), patches,
                  static_cast<int>(plan.tiles_j), static_cast<int>(plan.pairs), partial);
  };
  const int error = is_wide ? start(squares_kernel<T, kConvolution, kWide>)
                            : start(squares_kernel<T, kConvolution, 1>);
  if (error) return error;
  const auto count = groups * outputs * inputs;
  return launch(sum_splits<T>, dim3(static_cast<unsigned>(ceil_div(count, 256))), 256, 0, stream,
                partial, count, static_cast<int>(plan.splits), static_cast<int>(inputs),
                kConvolution ? patches.channels : static_cast<int>(inputs),
                kConvolution ? patches.entries : 1, accumulate, out);
}

template <class T>
int run_convolution(const T* g, const T* x, int64_t folds, int64_t samples, int64_t height,
                    int64_t width, int64_t channels, int64_t outputs, const Convolution& c,
                    double* out, bool accumulate, void* workspace, size_t bytes,
                    cudaStream_t stream) {
  if (c.groups < 1 || channels % c.groups || outputs % c.groups) return kInvalidValue;
  const auto out_height = c.output_size(0, height), out_width = c.output_size(1, width);
  Patches p = {};
  p.height = static_cast<int>(height), p.width = static_cast<int>(width);
  p.kernel_x = static_cast<int>(c.kernel[1]);
  p.stride_y = static_cast<int>(c.stride[0]), p.stride_x = static_cast<int>(c.stride[1]);
  p.padding_y = static_cast<int>(c.padding[0]), p.padding_x = static_cast<int>(c.padding[1]);
  p.dilation_y = static_cast<int>(c.dilation[0]), p.dilation_x = static_cast<int>(c.dilation[1]);
  p.out_width = static_cast<int>(out_width);
  p.channels = static_cast<int>(channels / c.groups);
  p.entries = static_cast<int>(c.kernel[0] * c.kernel[1]);
  p.all_channels = channels;
  return run<T, true>(g, x, c.groups, folds, samples, out_height * out_width, outputs / c.groups,
                      static_cast<int64_t>(p.channels) * p.entries, p, out, accumulate, workspace,
                      bytes, stream);
}

}  // namespace

size_t squared_gradients_workspace_bytes(int64_t groups, int64_t folds, int64_t samples,
                                         int64_t outputs, int64_t inputs, size_t element_size) {
  return static_cast<size_t>(Plan(groups, folds, samples, outputs, inputs).splits * groups *
                             outputs * inputs) *
         element_size;
}

int squared_gradients(const float* g, const float* phi, int64_t groups, int64_t folds,
                      int64_t samples, int64_t positions, int64_t outputs, int64_t inputs,
                      double* out, bool accumulate, void* workspace, size_t workspace_bytes,
                      cudaStream_t stream) {
  return run<float, false>(g, phi, groups, folds, samples, positions, outputs, inputs, {}, out,
                           accumulate, workspace, workspace_bytes, stream);
}
int squared_gradients(const double* g, const double* phi, int64_t groups, int64_t folds,
                      int64_t samples, int64_t positions, int64_t outputs, int64_t inputs,
                      double* out, bool accumulate, void* workspace, size_t workspace_bytes,
                      cudaStream_t stream) {
  return run<double, false>(g, phi, groups, folds, samples, positions, outputs, inputs, {}, out,
                            accumulate, workspace, workspace_bytes, stream);
}
int conv_squared_gradients(const float* g, const float* x, int64_t folds, int64_t samples,
                           int64_t height, int64_t width, int64_t channels, int64_t outputs,
                           const Convolution& convolution, double* out, bool accumulate,
                           void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  return run_convolution(g, x, folds, samples, height, width, channels, outputs, convolution, out,
                         accumulate, workspace, workspace_bytes, stream);
}
int conv_squared_gradients(const double* g, const double* x, int64_t folds, int64_t samples,
                           int64_t height, int64_t width, int64_t channels, int64_t outputs,
                           const Convolution& convolution, double* out, bool accumulate,
                           void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  return run_convolution(g, x, folds, samples, height, width, channels, outputs, convolution, out,
                         accumulate, workspace, workspace_bytes, stream);
}

}  // namespace evariste::EVARISTE_CUDA_NAMESPACE
