// The functions of kernels.h in plain loops: what they mean, and what their tests compare with.
// Pointers are to host memory; sums are float64 whatever T is. T is float or double.
#pragma once

#include "laplace/cuda/kernels.h"

namespace evariste::cuda_reference {

using EVARISTE_CUDA_NAMESPACE::Convolution;

template <class T>
void gram(const T* rows, int64_t groups, int64_t count, int64_t dimension, int64_t row_stride,
          int64_t group_stride, double* out, bool accumulate);
template <class T>
void conv_gram(const T* x, int64_t samples, int64_t height, int64_t width, int64_t channels,
               const Convolution& convolution, double* out, bool accumulate);
template <class T>
void softmax_root(const T* f, int64_t samples, int64_t classes, T* out);
template <class T>
void softmax_sampled_scores(const T* f, int64_t samples, int64_t classes, int64_t draws,
                            uint64_t key, int64_t first, T* out);
template <class T>
void softmax_score(const T* f, const int64_t* labels, int64_t samples, int64_t classes, T* out);
template <class T>
void bernoulli_root(const T* f, int64_t samples, int64_t classes, T* out);
template <class T>
void pack_positive(const T* x, int64_t count, uint32_t* bits);
template <class T>
void masked_backward(const T* g, const uint32_t* bits, const T* skip, double scale, int64_t folds,
                     int64_t count, T* out);
template <class T>
void squared_gradients(const T* g, const T* phi, int64_t groups, int64_t folds, int64_t samples,
                       int64_t positions, int64_t outputs, int64_t inputs, double* out,
                       bool accumulate);
template <class T>
void conv_squared_gradients(const T* g, const T* x, int64_t folds, int64_t samples, int64_t height,
                            int64_t width, int64_t channels, int64_t outputs,
                            const Convolution& convolution, double* out, bool accumulate);
template <class T>
void spectral_sums(const T* alpha, const T* beta, const T* spectrum, int64_t groups,
                   int64_t outputs, int64_t inputs, double scale, double delta, double* sums,
                   double* cotangent_b, double* cotangent_a);
template <class T>
void output_covariance(const T* g, const T* w, int64_t groups, int64_t columns, int64_t samples,
                       int64_t outputs, T* out);
template <class T>
void pack_lower(const T* matrices, int64_t groups, int64_t dimension, T* packed);
template <class T>
void unpack_lower(const T* packed, int64_t groups, int64_t dimension, T* matrices);

}  // namespace evariste::cuda_reference
