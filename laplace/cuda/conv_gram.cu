// K1: the input factor of a convolution by autocorrelation. See kernels.h for the idea and
// product.cuh for the tile.
//
// Along each axis: kernel entry k sees the padded pixels k dilation + stride t, t < output size.
// Its phase is k dilation modulo the stride, and pixels of a phase are counted in steps of the
// stride. A cell is an interval of such pixels that the windows of all entries either hold or miss;
// a key is a phase and the distance in pixels between two entries, the first of that phase.
//
//   E[slot][c, (key, c')] = sum over the slot's pixels of x[pixel, c] x[pixel + key, c']
//
// A slot is a part of a product of cells (the large ones are split); the tile's rows are its
// pixels, of all samples, and its columns run over all keys of the phase, so that few channels
// still fill a tile. The last kernel adds up the slots of each window.
#include "laplace/cuda/product.cuh"

namespace evariste::EVARISTE_CUDA_NAMESPACE {
namespace {

constexpr int kMostKernel = 16;
constexpr int kMostCells = 2 * kMostKernel;
constexpr int kMostKeys = kMostKernel * kMostKernel;
constexpr int64_t kBlocks = 528;
constexpr int64_t kMostRows = 8192, kLeastRows = 512;
constexpr int kSquare = 32;
constexpr int kTileN = 128, kTileN64 = 64;  // float64

struct Axis {
  int kernel, stride, padding, dilation, input, output;
  int phases;                     // that kernel entries have
  int phase[kMostKernel];         // 0 ... stride - 1
  int cells_of[kMostKernel + 1];  // cells of phase p: [cells_of[p], cells_of[p + 1])
  int cell_first[kMostCells], cell_count[kMostCells];
  int keys_of[kMostKernel + 1];  // keys of phase p, as above
  int forward[kMostKernel];      // how many of them have distance >= 0; these come first
  int distance[kMostKeys];       // rising among those >= 0 and among those < 0
  uint32_t needed[kMostKeys];    // bit i: cell i lies in a window of the key

  __host__ __device__ int first_of(int k) const { return k * dilation / stride; }
  __host__ __device__ int phase_of(int k) const {
    int p = 0;
    while (phase[p] != k * dilation % stride) ++p;
    return p;
  }
  __host__ __device__ bool holds(int k, int cell) const {
    return cell_first[cell] >= first_of(k) &&
           cell_first[cell] + cell_count[cell] <= first_of(k) + output;
  }
};

struct Plan {
  Axis y, x;
  int samples, channels, padded_channels;  // of a group; padded to a multiple of 4
  int rows;                                // most pixels in a slot
  int width;                               // columns of E: most keys of a phase, each with c'

  __host__ __device__ int splits(int cell_y, int cell_x) const {
    const int64_t pixels =
        static_cast<int64_t>(samples) * y.cell_count[cell_y] * x.cell_count[cell_x];
    return static_cast<int>((pixels + rows - 1) / rows);
  }
  /// Of distances >= 0 in y; where it is 0, in x. The others are transposes.
  __host__ __device__ int keys(int phase_y, int phase_x) const {
    const int down = y.keys_of[phase_y + 1] - y.keys_of[phase_y] - 1;
    return x.forward[phase_x] + down * (x.keys_of[phase_x + 1] - x.keys_of[phase_x]);
  }
  /// Places of key `index` in the axes' lists.
  __device__ void find_key(int phase_y, int phase_x, int index, int& key_y, int& key_x) const {
    const int across = x.keys_of[phase_x + 1] - x.keys_of[phase_x];
    const int rest = index - x.forward[phase_x];
    key_y = y.keys_of[phase_y] + (rest < 0 ? 0 : 1 + rest / across);
    key_x = x.keys_of[phase_x] + (rest < 0 ? index : rest % across);
  }
  /// visit(phase_y, phase_x, cell_y, cell_x, splits) in the order of slots until it returns true.
  EVARISTE_ANY_SIDE template <class Visit>
  __host__ __device__ __forceinline__ void for_each_cell(const Visit& visit) const {
    for (int py = 0; py < y.phases; ++py)
      for (int px = 0; px < x.phases; ++px)
        for (int cy = y.cells_of[py]; cy < y.cells_of[py + 1]; ++cy)
          for (int cx = x.cells_of[px]; cx < x.cells_of[px + 1]; ++cx)
            if (visit(py, px, cy, cx, splits(cy, cx))) return;
  }
};

// --- on the host -------------------------------------------------------------------------------

Axis make_axis(const Convolution& c, int axis, int64_t input, bool only_forward) {
  Axis a = {};
  a.kernel = static_cast<int>(c.kernel[axis]), a.stride = static_cast<int>(c.stride[axis]);
  a.padding = static_cast<int>(c.padding[axis]), a.dilation = static_cast<int>(c.dilation[axis]);
  a.input = static_cast<int>(input), a.output = static_cast<int>(c.output_size(axis, input));
  for (int k = 0; k < a.kernel; ++k) {
    const int phase = k * a.dilation % a.stride;
    if (std::find(a.phase, a.phase + a.phases, phase) == a.phase + a.phases)
      a.phase[a.phases++] = phase;
  }
  for (int p = 0; p < a.phases; ++p) {
    int cuts[kMostCells], count = 0;
    for (int k = 0; k < a.kernel; ++k)
      if (a.phase_of(k) == p)
        for (const int cut : {a.first_of(k), a.first_of(k) + a.output}) cuts[count++] = cut;
    std::sort(cuts, cuts + count);
    int cells = a.cells_of[p];
    for (int i = 0; i + 1 < count; ++i) {
      const int first = cuts[i] * a.stride + a.phase[p] - a.padding;
      const int last = (cuts[i + 1] - 1) * a.stride + a.phase[p] - a.padding;
      if (cuts[i + 1] == cuts[i] || last < 0 || first >= a.input) continue;  // padding alone
      a.cell_first[cells] = cuts[i], a.cell_count[cells++] = cuts[i + 1] - cuts[i];
    }
    a.cells_of[p + 1] = cells;

    int keys = a.keys_of[p];
    for (const bool backward : {false, true}) {
      if (backward) a.forward[p] = keys - a.keys_of[p];
      if (backward && only_forward) continue;
      const int most = (a.kernel - 1) * a.dilation;
      for (int d = backward ? -most : 0; d <= (backward ? -1 : most); ++d) {
        uint32_t needed = 0;
        bool is_key = false;
        for (int k = 0; k < a.kernel; ++k)
          for (int other = 0; other < a.kernel; ++other) {
            if (a.phase_of(k) != p || (other - k) * a.dilation != d) continue;
            is_key = true;
            for (int cell = a.cells_of[p]; cell < cells; ++cell)
              if (a.holds(k, cell)) needed |= 1u << cell;
          }
        if (is_key) a.distance[keys] = d, a.needed[keys++] = needed;
      }
    }
    a.keys_of[p + 1] = keys;
  }
  return a;
}

struct Work {
  Plan plan;
  int64_t tile_m, tile_n, tiles_m, tiles_n, slots, groups;
  bool valid;

  Work(int64_t samples, int64_t height, int64_t width, int64_t channels, const Convolution& c,
       size_t element_size)
      : plan{}, tile_m(0), tile_n(0), tiles_m(0), tiles_n(0), slots(0), groups(c.groups) {
    valid = samples >= 0 && groups > 0 && channels > 0 && channels % groups == 0 &&
            groups <= 65535 && samples * height * width < INT32_MAX / 2;
    for (const int axis : {0, 1})
      valid = valid && c.kernel[axis] >= 1 && c.kernel[axis] <= kMostKernel &&
              c.stride[axis] >= 1 && c.padding[axis] >= 0 && c.dilation[axis] >= 1 &&
              c.output_size(axis, axis == 0 ? height : width) >= 1;
    if (!valid) return;
    plan.y = make_axis(c, 0, height, true);
    plan.x = make_axis(c, 1, width, false);
    plan.samples = static_cast<int>(samples);
    plan.channels = static_cast<int>(channels / groups);
    plan.padded_channels = static_cast<int>(ceil_div(plan.channels, 4) * 4);
    for (int p = 0; p < plan.y.phases; ++p)
      for (int q = 0; q < plan.x.phases; ++q)
        plan.width = std::max(plan.width, plan.keys(p, q) * plan.padded_channels);
    if (element_size == 8)
      tile_m = 64, tile_n = kTileN64;
    else
      tile_m = plan.channels <= 16 ? 16 : plan.channels <= 64 ? 64 : 128, tile_n = kTileN;
    tiles_m = ceil_div(plan.channels, tile_m), tiles_n = ceil_div(plan.width, tile_n);
    int64_t largest = 1;
    plan.rows = 1;
    plan.for_each_cell([&](int, int, int cy, int cx, int pixels) {
      (void)cy, (void)cx;
      largest = std::max<int64_t>(largest, pixels);
      return false;
    });
    const auto filling = ceil_div(kBlocks, tiles_m * tiles_n * groups);
    const auto rows = std::clamp(ceil_div(largest, filling), kLeastRows, kMostRows);
    plan.rows = static_cast<int>(ceil_div(rows, kDepth) * kDepth);
    plan.for_each_cell([&](int, int, int, int, int splits) {
      slots += splits;
      return false;
    });
  }
  int64_t entries() const { return groups * slots * plan.channels * plan.width; }
};

// --- on the device -----------------------------------------------------------------------------

/// Rows are the pixels of a slot, columns the channels there and at all keys' distances.
template <class T>
struct Pixels {
  const T* data;  // of the group
  int height, width, stride_y, stride_x, first_y, first_x, channels, m0;
  int64_t all_channels;
  Divisor across, down;
  const Plan& plan;
  int phase_y, phase_x, n0;
  static constexpr bool same = false;

  struct Row {
    int y, x, pixel;
  };
  struct Left {
    const T* channel;
    bool valid;
  };
  struct Right {
    const T* channel;
    int y, x, pixel;
    bool valid;
  };
  __device__ Left left(int m) const { return {data + m0 + m, m0 + m < channels}; }
  __device__ Right right(int n) const {
    const int key = (n0 + n) / plan.padded_channels, channel = (n0 + n) % plan.padded_channels;
    if (key >= plan.keys(phase_y, phase_x) || channel >= channels) return {data, 0, 0, 0, false};
    int key_y, key_x;
    plan.find_key(phase_y, phase_x, key, key_y, key_x);
    const int y = plan.y.distance[key_y], x = plan.x.distance[key_x];
    return {data + channel, y, x, y * width + x, true};
  }
  __device__ Row row(int k) const {
    const int line = across.divide(k), sample = down.divide(line);
    const int y = first_y + (line - sample * down.value()) * stride_y;
    const int x = first_x + (k - line * across.value()) * stride_x;
    return {y, x, (sample * height + y) * width + x};
  }
  __device__ bool is_inside(int y, int x) const {
    return static_cast<unsigned>(y) < static_cast<unsigned>(height) &&
           static_cast<unsigned>(x) < static_cast<unsigned>(width);
  }
  __device__ const T* at(const Row& row, const Left& column, bool& valid) const {
    valid = valid && column.valid && is_inside(row.y, row.x);
    return column.channel + row.pixel * all_channels;
  }
  __device__ const T* at(const Row& row, const Right& column, bool& valid) const {
    valid = valid && column.valid && is_inside(row.y + column.y, row.x + column.x);
    return column.channel + (row.pixel + column.pixel) * all_channels;
  }
};

/// Block (slot, tile, group).
template <class T, Precision kPrecision, int kM, int kN, int kVector>
__global__ void __launch_bounds__(Layout<T, kPrecision, kM, kN>::kThreads)
    conv_tiles(const T* image, const Plan plan, int tiles_n, T* partial) {
  int slot = static_cast<int>(blockIdx.x), phase_y = 0, phase_x = 0, cell_y = 0, cell_x = 0;
  plan.for_each_cell([&](int py, int px, int cy, int cx, int splits) {
    phase_y = py, phase_x = px, cell_y = cy, cell_x = cx;
    if (slot < splits) return true;
    slot -= splits;
    return false;
  });
  const int m0 = static_cast<int>(blockIdx.y) / tiles_n * kM;
  const int n0 = static_cast<int>(blockIdx.y) % tiles_n * kN;

  bool is_needed = false;  // by a key of the tile
  const int keys = plan.keys(phase_y, phase_x), last = (n0 + kN - 1) / plan.padded_channels;
  for (int key = n0 / plan.padded_channels; key <= last && key < keys; ++key) {
    int key_y, key_x;
    plan.find_key(phase_y, phase_x, key, key_y, key_x);
    is_needed = is_needed || ((plan.y.needed[key_y] >> cell_y & 1) != 0 &&
                              (plan.x.needed[key_x] >> cell_x & 1) != 0);
  }
  if (!is_needed) return;  // the whole block

  const int down = plan.y.cell_count[cell_y], across = plan.x.cell_count[cell_x];
  const int64_t all_channels = static_cast<int64_t>(gridDim.z) * plan.channels;
  const Pixels<T> source{
      image + static_cast<int64_t>(blockIdx.z) * plan.channels,
      plan.y.input,
      plan.x.input,
      plan.y.stride,
      plan.x.stride,
      plan.y.cell_first[cell_y] * plan.y.stride + plan.y.phase[phase_y] - plan.y.padding,
      plan.x.cell_first[cell_x] * plan.x.stride + plan.x.phase[phase_x] - plan.x.padding,
      plan.channels,
      m0,
      all_channels,
      Divisor(across),
      Divisor(down),
      plan,
      phase_y,
      phase_x,
      n0};
  const int pixels = plan.samples * down * across, begin = slot * plan.rows;
  Sums<T, kPrecision, kM, kN> sums;
  add_product<kPrecision, kM, kN, kVector>(
      source, begin, begin + plan.rows < pixels ? begin + plan.rows : pixels, sums);
  T* const out = partial + (static_cast<int64_t>(blockIdx.z) * gridDim.x + blockIdx.x) *
                               plan.channels * plan.width;
  sums.for_each([&](int m, int n, T value) {
    if (m0 + m < plan.channels && n0 + n < plan.width)
      out[static_cast<int64_t>(m0 + m) * plan.width + n0 + n] = value;
  });
}

/// Block (pair of kernel entries, square of channels, group), 32 x 8 threads.
template <class T>
__global__ void __launch_bounds__(256)
    assemble_windows(const T* partial, const Plan plan, int slots, int squares, bool accumulate,
                     double* out) {
  const int entries = plan.y.kernel * plan.x.kernel;
  int entry = 0, pair = static_cast<int>(blockIdx.x);  // (entry, other), entry <= other
  while (pair >= entries - entry) pair -= entries - entry++;
  const int other = entry + pair;
  const int ky = entry / plan.x.kernel, kx = entry % plan.x.kernel;
  const int phase_y = plan.y.phase_of(ky), phase_x = plan.x.phase_of(kx);
  const int distance_y = (other / plan.x.kernel - ky) * plan.y.dilation;
  const int distance_x = (other % plan.x.kernel - kx) * plan.x.dilation;
  const int keys = plan.keys(phase_y, phase_x);
  int key = 0;
  for (; key < keys; ++key) {
    int key_y, key_x;
    plan.find_key(phase_y, phase_x, key, key_y, key_x);
    if (plan.y.distance[key_y] == distance_y && plan.x.distance[key_x] == distance_x) break;
  }

  const int c0 = static_cast<int>(blockIdx.y) / squares * kSquare;
  const int column = static_cast<int>(blockIdx.y) % squares * kSquare + threadIdx.x % kSquare;
  const int y = threadIdx.x / kSquare;
  const int64_t slot_size = static_cast<int64_t>(plan.channels) * plan.width;
  const T* from = partial + blockIdx.z * slots * slot_size + key * plan.padded_channels + column;
  double sums[kSquare / 8] = {};
  if (column < plan.channels) {
    plan.for_each_cell([&](int py, int px, int cy, int cx, int splits) {
      const bool counts =
          py == phase_y && px == phase_x && plan.y.holds(ky, cy) && plan.x.holds(kx, cx);
      if (!counts) {
        from += splits * slot_size;
        return false;
      }
      for (int s = 0; s < splits; ++s, from += slot_size)
#pragma unroll
        for (int i = 0; i < kSquare / 8; ++i) {
          const int c = c0 + y + 8 * i;
          if (c < plan.channels)
            sums[i] += static_cast<double>(from[static_cast<int64_t>(c) * plan.width]);
        }
      return false;
    });
  }
  const int64_t side = static_cast<int64_t>(plan.channels) * entries;
  out += blockIdx.z * side * side;
#pragma unroll
  for (int i = 0; i < kSquare / 8; ++i) {
    const int c = c0 + y + 8 * i;
    if (c >= plan.channels || column >= plan.channels || (entry == other && c < column)) continue;
    const int64_t a = static_cast<int64_t>(c) * entries + entry;
    const int64_t b = static_cast<int64_t>(column) * entries + other;
    const double sum = accumulate ? out[a * side + b] + sums[i] : sums[i];
    out[a * side + b] = sum;
    out[b * side + a] = sum;
  }
}

template <class T, Precision kPrecision, int kM, int kN>
int launch_tiles(const T* x, const Work& work, T* partial, cudaStream_t stream) {
  constexpr int kWide = 16 / sizeof(T);
  const bool is_wide = work.plan.channels % kWide == 0 && reinterpret_cast<uintptr_t>(x) % 16 == 0;
  const dim3 grid(static_cast<unsigned>(work.slots),
                  static_cast<unsigned>(work.tiles_m * work.tiles_n),
                  static_cast<unsigned>(work.groups));
  const auto run = [&](auto kernel) {
    return launch(kernel, grid, Layout<T, kPrecision, kM, kN>::kThreads,
                  product_shared_bytes<T, kM, kN>(), stream, x, work.plan,
                  static_cast<int>(work.tiles_n), partial);
  };
  return is_wide ? run(conv_tiles<T, kPrecision, kM, kN, kWide>)
                 : run(conv_tiles<T, kPrecision, kM, kN, 1>);
}

template <Precision kPrecision>
int choose_tile(const float* x, const Work& work, float* partial, cudaStream_t stream) {
  if (work.tile_m == 16)
    return launch_tiles<float, kPrecision, 16, kTileN>(x, work, partial, stream);
  if (work.tile_m == 64)
    return launch_tiles<float, kPrecision, 64, kTileN>(x, work, partial, stream);
  return launch_tiles<float, kPrecision, 128, kTileN>(x, work, partial, stream);
}

int choose_precision(Precision precision, const float* x, const Work& work, float* partial,
                     cudaStream_t stream) {
  if (precision == Precision::kTf32) return choose_tile<Precision::kTf32>(x, work, partial, stream);
  if (precision == Precision::kBf16x3)
    return choose_tile<Precision::kBf16x3>(x, work, partial, stream);
  return choose_tile<Precision::kStrict>(x, work, partial, stream);
}
int choose_precision(Precision, const double* x, const Work& work, double* partial,
                     cudaStream_t stream) {
  return launch_tiles<double, Precision::kStrict, 64, kTileN64>(x, work, partial, stream);
}

template <class T>
int run_conv_gram(const T* x, int64_t samples, int64_t height, int64_t width, int64_t channels,
                  const Convolution& convolution, double* out, bool accumulate, Precision precision,
                  void* workspace, size_t bytes, cudaStream_t stream) {
  const Work work(samples, height, width, channels, convolution, sizeof(T));
  const auto squares = ceil_div(work.plan.channels, kSquare);
  if (!work.valid || work.tiles_m * work.tiles_n > 65535 || squares * squares > 65535 ||
      bytes < static_cast<size_t>(work.entries()) * sizeof(T))
    return kInvalidValue;
  T* const partial = static_cast<T*>(workspace);
  if (work.slots > 0)
    if (const int error = choose_precision(precision, x, work, partial, stream)) return error;
  const auto entries = convolution.kernel[0] * convolution.kernel[1];
  const dim3 grid(static_cast<unsigned>(entries * (entries + 1) / 2),
                  static_cast<unsigned>(squares * squares), static_cast<unsigned>(work.groups));
  return launch(assemble_windows<T>, grid, 256, 0, stream, partial, work.plan,
                static_cast<int>(work.slots), static_cast<int>(squares), accumulate, out);
}

}  // namespace

size_t conv_gram_workspace_bytes(int64_t samples, int64_t height, int64_t width, int64_t channels,
                                 const Convolution& convolution, size_t element_size) {
  const Work work(samples, height, width, channels, convolution, element_size);
  return work.valid ? static_cast<size_t>(work.entries()) * element_size : 0;
}

int conv_gram(const float* x, int64_t samples, int64_t height, int64_t width, int64_t channels,
              const Convolution& convolution, double* out, bool accumulate, Precision precision,
              void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  return run_conv_gram(x, samples, height, width, channels, convolution, out, accumulate, precision,
                       workspace, workspace_bytes, stream);
}
int conv_gram(const double* x, int64_t samples, int64_t height, int64_t width, int64_t channels,
              const Convolution& convolution, double* out, bool accumulate, Precision precision,
              void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  return run_conv_gram(x, samples, height, width, channels, convolution, out, accumulate, precision,
                       workspace, workspace_bytes, stream);
}

}  // namespace evariste::EVARISTE_CUDA_NAMESPACE
