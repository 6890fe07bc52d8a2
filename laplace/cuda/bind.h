// The kernels on torch's tensors. Without CUDA takes() is always false, and the engine's own torch
// operations serve every device.
//
// All run on the current stream of the tensors' device, with scratch memory of torch's allocator.
#pragma once

#include <utility>

#include "laplace/cuda/kernels.h"
#include "laplace/shape.h"

namespace evariste::cuda {

/// Whether the kernels serve `x`: on a CUDA device, float32 or float64, and nobody differentiates
/// through it. Always false where they were not compiled.
bool takes(const Tensor& x);

/// rows^T rows, [Q, D, D] float64; rows [Q, R, D].
Tensor gram(const Tensor& rows);
/// The same of patches, [G, J, J] float64; x [N, C, H, W].
Tensor conv_gram(const Tensor& x, const Convolution& convolution);

/// As Softmax and Bernoulli have them; f [N, C].
Tensor softmax_root(const Tensor& f);
Tensor softmax_sampled_scores(const Tensor& f, int64_t draws, uint64_t key, int64_t first);
Tensor softmax_score(const Tensor& f, const Tensor& labels);
Tensor bernoulli_root(const Tensor& f);

/// Signs of x as bits, int32 [ceil(n / 32)]; and g where they are set, else 0: g [R n entries];
/// plus skip, as g, if it is defined.
Tensor pack_positive(const Tensor& x);
Tensor masked_backward(const Tensor& g, const Tensor& bits, int64_t count, const Tensor& skip);

/// sum_{r,n} (sum_t g phi^T)^2, [Q, O, J] float64; g [Q, R, N, T, O], phi [Q, N, T, J].
Tensor squared_gradients(const Tensor& g, const Tensor& phi);
/// The same with the patches of x [N, C, H, W]; g [G, R, N, T, O/G].
Tensor conv_squared_gradients(const Tensor& g, const Tensor& x, const Convolution& convolution);

/// log-determinant, effective dimension and slope, as [3] float64 on the host; alpha [Q, J], beta
/// [Q, O], and `spectrum` [Q, O, J] in their place where it is defined.
Tensor spectral_sums(const Tensor& alpha, const Tensor& beta, const Tensor& spectrum, double scale,
                     double precision);

/// 1/2 of the derivative of log|H + precision| in alpha and in beta, [Q, J] and [Q, O] float64.
std::pair<Tensor, Tensor> spectral_cotangents(const Tensor& alpha, const Tensor& beta, double scale,
                                              double precision);

/// out [N, C, C] += g diag(w) g^T; g [Q, C, N, O], w [Q, N, O].
void output_covariance(const Tensor& g, const Tensor& w, Tensor& out);

/// [Q, D, D] -> [Q, D (D + 1) / 2] and back.
Tensor pack_lower(const Tensor& matrices);
Tensor unpack_lower(const Tensor& packed, int64_t dimension);

}  // namespace evariste::cuda
