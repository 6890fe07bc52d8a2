// The curvature engine's own CUDA kernels, without torch: raw pointers, sizes, a stream.
//
// Every function enqueues its work on `stream`, returns a cudaError_t as int (0 is success), and
// neither allocates nor synchronises: scratch memory of ..._workspace_bytes comes from the caller,
// 256-byte aligned, and may be reused as soon as the stream has passed. Pointers are to device
// memory, arrays dense and row-major with the last index fastest unless a stride is named. No float
// is added atomically: splits of a sum are kept apart and added in a fixed order, so a second run
// gives the same bits, on any card.
//
// reference.h has the same functions in plain loops on host memory, with the same arguments but for
// workspace and stream; tests/laplace/cuda_test.cpp compares the two.
#pragma once

#include <cstddef>
#include <cstdint>

// As in <cuda_runtime_api.h>, so that this header needs no toolkit.
struct CUstream_st;
typedef struct CUstream_st* cudaStream_t;

// Compiled a second time with EVARISTE_CUDA_EMULATION, for the host (emulation.cuh).
#ifdef EVARISTE_CUDA_EMULATION
#define EVARISTE_CUDA_NAMESPACE cuda_emulated
#else
#define EVARISTE_CUDA_NAMESPACE cuda
#endif

namespace evariste::EVARISTE_CUDA_NAMESPACE {

/// Arithmetic of float32 products; float64 ones know kStrict only and ignore the argument.
/// Relative Frobenius errors of a Gram matrix:
enum class Precision {
  kStrict,  ///< float32 multiply-add, below 2e-6 log2(terms)
  kTf32,    ///< tensor cores, 10-bit mantissas, below 6e-4
  kBf16x3,  ///< tensor cores, x = hi + lo in bfloat16, three of the four products: below 1e-5
};

/// A two-dimensional convolution with zero padding (a circular one pads first).
struct Convolution {
  int64_t kernel[2], stride[2], padding[2], dilation[2];  // y, x
  int64_t groups;

  /// Output size along an axis (0 = y) for an input of this size; 0 where the kernel does not fit.
  int64_t output_size(int axis, int64_t size) const {
    const auto room = size + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1;
    return room < 0 ? 0 : room / stride[axis] + 1;
  }
};

// --- K2: Gram matrices -------------------------------------------------------------------------

/// out[q] (+)= rows[q]^T rows[q], [Q, D, D] float64, both triangles, equal bit for bit.
///   rows [Q, R, D], element (q, r, d) at q group_stride + r row_stride + d
/// Tiles on and below the diagonal only: Q R D^2 flops and one pass over the rows for each row of
/// 128 columns. float32 rows are summed in float32 over at most 8192 rows, then in float64.
/// Workspace: a tile for each split of the rows, at most about 35 MB more than D^2 floats.
int gram(const float* rows, int64_t groups, int64_t count, int64_t dimension, int64_t row_stride,
         int64_t group_stride, double* out, bool accumulate, Precision precision, void* workspace,
         size_t workspace_bytes, cudaStream_t stream);
int gram(const double* rows, int64_t groups, int64_t count, int64_t dimension, int64_t row_stride,
         int64_t group_stride, double* out, bool accumulate, Precision precision, void* workspace,
         size_t workspace_bytes, cudaStream_t stream);
size_t gram_workspace_bytes(int64_t groups, int64_t count, int64_t dimension, size_t element_size);

// --- K1: input factor of a convolution -----------------------------------------------------------

/// out[g] (+)= sum over samples and output positions of phi phi^T, [G, J, J] float64, J = C/G kh kw
/// in the order (c, y, x), for phi the patches of x [N, H, W, C] (channels last).
///
/// No patch is formed. Entry ((c, d), (c', d')) sums products of pixels that lie d' - d apart, over
/// the pixels that kernel entry d sees. Entries with the same distance and the same phase modulo
/// the stride differ in that window alone, so the image is cut into cells that no window cuts, one
/// product C x C is made for each distance and cell, and windows are put together from cells:
/// 13/81 of the flops of the patch matrix for a 3 x 3 kernel, and x is all that is read.
/// Kernel sizes up to 16 by 16; N H W below 2^31.
int conv_gram(const float* x, int64_t samples, int64_t height, int64_t width, int64_t channels,
              const Convolution& convolution, double* out, bool accumulate, Precision precision,
              void* workspace, size_t workspace_bytes, cudaStream_t stream);
int conv_gram(const double* x, int64_t samples, int64_t height, int64_t width, int64_t channels,
              const Convolution& convolution, double* out, bool accumulate, Precision precision,
              void* workspace, size_t workspace_bytes, cudaStream_t stream);
size_t conv_gram_workspace_bytes(int64_t samples, int64_t height, int64_t width, int64_t channels,
                                 const Convolution& convolution, size_t element_size);

// --- K4: columns of the output Hessian -----------------------------------------------------------

/// Root of Lambda = diag p - p p^T, p = softmax f: out [C - 1, N, C] from f [N, C]; with q_j =
/// sum_{i>j} p_i,  out[j, n, j] = sqrt(p_j q_j / q_{j-1}),
///   out[j, n, i>j] = -p_i sqrt(p_j / (q_{j-1} q_j)),  0 for i < j.
/// One class gives one column of zeros. A warp for each sample; writes C^2 numbers for each.
/// C up to 19000 (float64: 9500); the same for the scores.
int softmax_root(const float* f, int64_t samples, int64_t classes, float* out, cudaStream_t stream);
int softmax_root(const double* f, int64_t samples, int64_t classes, double* out,
                 cudaStream_t stream);

/// Scores of labels drawn from p = softmax f: out [S, N, C] = (onehot - p) / sqrt(S). Draw s of
/// sample n takes number s of the stream split(first + n) of `key` (core/stream.h), as on the host:
/// the label is the number of classes whose cumulative probability is below it.
int softmax_sampled_scores(const float* f, int64_t samples, int64_t classes, int64_t draws,
                           uint64_t key, int64_t first, float* out, cudaStream_t stream);
int softmax_sampled_scores(const double* f, int64_t samples, int64_t classes, int64_t draws,
                           uint64_t key, int64_t first, double* out, cudaStream_t stream);

/// out [N, C] = onehot(labels) - softmax f; labels [N], int64.
int softmax_score(const float* f, const int64_t* labels, int64_t samples, int64_t classes,
                  float* out, cudaStream_t stream);
int softmax_score(const double* f, const int64_t* labels, int64_t samples, int64_t classes,
                  double* out, cudaStream_t stream);

/// out [C, N, C] = diag sqrt(s (1 - s)), s = sigmoid f, f [N, C].
int bernoulli_root(const float* f, int64_t samples, int64_t classes, float* out,
                   cudaStream_t stream);
int bernoulli_root(const double* f, int64_t samples, int64_t classes, double* out,
                   cudaStream_t stream);

// --- K5: folded backward pass of a rectifier -----------------------------------------------------

/// Bit i % 32 of bits[i / 32] = x[i] > 0; ceil(count / 32) words, unused bits 0.
int pack_positive(const float* x, int64_t count, uint32_t* bits, cudaStream_t stream);
int pack_positive(const double* x, int64_t count, uint32_t* bits, cudaStream_t stream);

/// out[r, i] = (bit i ? scale g[r, i] : 0) + skip[r, i]; g, out [R, count], skip the same or null.
/// out may be g or skip. One pass: 2 (with skip 3) numbers an entry and one bit for all R.
int masked_backward(const float* g, const uint32_t* bits, const float* skip, double scale,
                    int64_t folds, int64_t count, float* out, cudaStream_t stream);
int masked_backward(const double* g, const uint32_t* bits, const double* skip, double scale,
                    int64_t folds, int64_t count, double* out, cudaStream_t stream);

// --- K7: squared per-sample gradients ------------------------------------------------------------

/// out[q, o, j] (+)= sum_{r,n} (sum_t g[q, r, n, t, o] phi[q, n, t, j])^2, [Q, O, J] float64;
///   g [Q, R, N, T, O], phi [Q, N, T, J].
/// 2 Q R N T O J flops in the numbers' own precision; no per-sample gradient leaves the registers.
/// Squares are added in it over at most 1024 (r, n), then in float64.
int squared_gradients(const float* g, const float* phi, int64_t groups, int64_t folds,
                      int64_t samples, int64_t positions, int64_t outputs, int64_t inputs,
                      double* out, bool accumulate, void* workspace, size_t workspace_bytes,
                      cudaStream_t stream);
int squared_gradients(const double* g, const double* phi, int64_t groups, int64_t folds,
                      int64_t samples, int64_t positions, int64_t outputs, int64_t inputs,
                      double* out, bool accumulate, void* workspace, size_t workspace_bytes,
                      cudaStream_t stream);
/// The same for a convolution of x [N, H, W, C] (channels last), its patches read in place: g
/// [G, R, N, T, O/G], out [G, O/G, J], J = C/G kh kw in the order (c, y, x).
int conv_squared_gradients(const float* g, const float* x, int64_t folds, int64_t samples,
                           int64_t height, int64_t width, int64_t channels, int64_t outputs,
                           const Convolution& convolution, double* out, bool accumulate,
                           void* workspace, size_t workspace_bytes, cudaStream_t stream);
int conv_squared_gradients(const double* g, const double* x, int64_t folds, int64_t samples,
                           int64_t height, int64_t width, int64_t channels, int64_t outputs,
                           const Convolution& convolution, double* out, bool accumulate,
                           void* workspace, size_t workspace_bytes, cudaStream_t stream);
/// For both; `outputs` and `inputs` are those of one group.
size_t squared_gradients_workspace_bytes(int64_t groups, int64_t folds, int64_t samples,
                                         int64_t outputs, int64_t inputs, size_t element_size);

// --- K8: sums over a Kronecker spectrum ----------------------------------------------------------

/// One pass over l[q, i, j] = scale beta[q, i] alpha[q, j], all sums in float64, delta > 0:
///   sums[0] = sum log(1 + l / delta)           log|H + delta| - log|delta|, nats
///   sums[1] = sum l / (l + delta)              effective dimension
///   sums[2] = sum l delta / (l + delta)^2      its slope in log delta, negated
///   cotangent_b[q, i] = scale/2 sum_j alpha_j / (l_ij + delta)      or null
///   cotangent_a[q, j] = scale/2 sum_i beta_i / (l_ij + delta)       or null, as cotangent_b
/// alpha [Q, J], beta [Q, O], sums [3]. With `spectrum` [Q, O, J] l = scale spectrum instead, and
/// the cotangents must be null.
int spectral_sums(const float* alpha, const float* beta, const float* spectrum, int64_t groups,
                  int64_t outputs, int64_t inputs, double scale, double delta, double* sums,
                  double* cotangent_b, double* cotangent_a, void* workspace, size_t workspace_bytes,
                  cudaStream_t stream);
int spectral_sums(const double* alpha, const double* beta, const double* spectrum, int64_t groups,
                  int64_t outputs, int64_t inputs, double scale, double delta, double* sums,
                  double* cotangent_b, double* cotangent_a, void* workspace, size_t workspace_bytes,
                  cudaStream_t stream);
size_t spectral_sums_workspace_bytes(int64_t groups, int64_t outputs, int64_t inputs);

// --- K9: covariance of the outputs ---------------------------------------------------------------

/// out[n, c, d] += sum_{q,i} g[q, c, n, i] w[q, n, i] g[q, d, n, i], symmetric bit for bit;
///   g [Q, C, N, O], w [Q, N, O], out [N, C, C].
/// A block for each sample and each 16 x 16 of the outputs on and below the diagonal.
int output_covariance(const float* g, const float* w, int64_t groups, int64_t columns,
                      int64_t samples, int64_t outputs, float* out, cudaStream_t stream);
int output_covariance(const double* g, const double* w, int64_t groups, int64_t columns,
                      int64_t samples, int64_t outputs, double* out, cudaStream_t stream);

// --- K12: lower triangles ------------------------------------------------------------------------

/// packed[q, i (i + 1) / 2 + j] = matrices[q, i, j] for j <= i; [Q, D, D] -> [Q, D (D + 1) / 2].
int pack_lower(const float* matrices, int64_t groups, int64_t dimension, float* packed,
               cudaStream_t stream);
int pack_lower(const double* matrices, int64_t groups, int64_t dimension, double* packed,
               cudaStream_t stream);
/// And back, both triangles.
int unpack_lower(const float* packed, int64_t groups, int64_t dimension, float* matrices,
                 cudaStream_t stream);
int unpack_lower(const double* packed, int64_t groups, int64_t dimension, double* matrices,
                 cudaStream_t stream);

}  // namespace evariste::EVARISTE_CUDA_NAMESPACE
