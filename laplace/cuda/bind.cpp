#include "laplace/cuda/bind.h"

#ifdef EVARISTE_CUDA

#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include "core/error.h"

namespace evariste::cuda {
namespace {

void check(int error, const char* kernel) {
  if (error != cudaSuccess)
    throw NumericalError(fmt::format("CUDA kernel {}: {}", kernel,
                                     cudaGetErrorString(static_cast<cudaError_t>(error))));
}

void expect_like(const Tensor& x, const Tensor& like, const char* name) {
  TORCH_CHECK(x.device() == like.device() && x.scalar_type() == like.scalar_type(), "cuda: ", name,
              " is ", x.scalar_type(), " on ", x.device(), ", the others are ", like.scalar_type(),
              " on ", like.device());
}

struct Workspace {
  Workspace(size_t size, const Tensor& like)
      : memory(torch::empty({static_cast<int64_t>(size)}, like.options().dtype(torch::kUInt8))),
        bytes(size) {}
  void* data() const { return memory.data_ptr(); }
  Tensor memory;
  size_t bytes;
};

cudaStream_t stream_of(const Tensor& x) {
  return c10::cuda::getCurrentCUDAStream(x.device().index()).stream();
}

/// Three bfloat16 products where tensor cores are fast, float32 elsewhere.
Precision default_precision(const Tensor& x) {
  int major = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, x.device().index()),
        "properties");
  return major >= 9 ? Precision::kBf16x3 : Precision::kStrict;
}

template <class Run>
void by_type(const Tensor& x, const Run& run) {
  if (x.scalar_type() == torch::kFloat64)
    run(double());
  else
    run(float());
}

Tensor channels_last(const Tensor& x) { return x.permute({0, 2, 3, 1}).contiguous(); }

}  // namespace

bool takes(const Tensor& x) {
  return x.is_cuda() &&
         (x.scalar_type() == torch::kFloat32 || x.scalar_type() == torch::kFloat64) &&
         !(torch::GradMode::is_enabled() && x.requires_grad());
}

Tensor gram(const Tensor& given) {
  const c10::cuda::CUDAGuard guard(given.device());
  const auto rows = given.stride(2) == 1 ? given : given.contiguous();
  const auto q = rows.size(0), r = rows.size(1), d = rows.size(2);
  auto out = torch::empty({q, d, d}, rows.options().dtype(torch::kFloat64));
  by_type(rows, [&](auto number) {
    using T = decltype(number);
    const Workspace workspace(gram_workspace_bytes(q, r, d, sizeof(T)), rows);
    check(gram(rows.const_data_ptr<T>(), q, r, d, rows.stride(1), rows.stride(0),
               out.data_ptr<double>(), false, default_precision(rows), workspace.data(),
               workspace.bytes, stream_of(rows)),
          "gram");
  });
  return out;
}

Tensor conv_gram(const Tensor& given, const Convolution& c) {
  const c10::cuda::CUDAGuard guard(given.device());
  const auto x = channels_last(given);
  const auto n = x.size(0), h = x.size(1), w = x.size(2), channels = x.size(3);
  const auto side = channels / c.groups * c.kernel[0] * c.kernel[1];
  auto out = torch::empty({c.groups, side, side}, x.options().dtype(torch::kFloat64));
  by_type(x, [&](auto number) {
    using T = decltype(number);
    const Workspace workspace(conv_gram_workspace_bytes(n, h, w, channels, c, sizeof(T)), x);
    check(conv_gram(x.const_data_ptr<T>(), n, h, w, channels, c, out.data_ptr<double>(), false,
                    default_precision(x), workspace.data(), workspace.bytes, stream_of(x)),
          "conv_gram");
  });
  return out;
}

Tensor softmax_root(const Tensor& given) {
  const c10::cuda::CUDAGuard guard(given.device());
  const auto f = given.contiguous();
  const auto n = f.size(0), classes = f.size(1);
  auto out = torch::empty({std::max<int64_t>(1, classes - 1), n, classes}, f.options());
  by_type(f, [&](auto number) {
    using T = decltype(number);
    check(softmax_root(f.const_data_ptr<T>(), n, classes, out.data_ptr<T>(), stream_of(f)),
          "softmax_root");
  });
  return out;
}

Tensor softmax_sampled_scores(const Tensor& given, int64_t draws, uint64_t key, int64_t first) {
  const c10::cuda::CUDAGuard guard(given.device());
  const auto f = given.contiguous();
  auto out = torch::empty({draws, f.size(0), f.size(1)}, f.options());
  by_type(f, [&](auto number) {
    using T = decltype(number);
    check(softmax_sampled_scores(f.const_data_ptr<T>(), f.size(0), f.size(1), draws, key, first,
                                 out.data_ptr<T>(), stream_of(f)),
          "softmax_sampled_scores");
  });
  return out;
}

Tensor softmax_score(const Tensor& given, const Tensor& labels) {
  const c10::cuda::CUDAGuard guard(given.device());
  const auto f = given.contiguous(), y = labels.to(f.device()).contiguous();
  auto out = torch::empty_like(f);
  by_type(f, [&](auto number) {
    using T = decltype(number);
    check(softmax_score(f.const_data_ptr<T>(), y.const_data_ptr<int64_t>(), f.size(0), f.size(1),
                        out.data_ptr<T>(), stream_of(f)),
          "softmax_score");
  });
  return out;
}

Tensor bernoulli_root(const Tensor& given) {
  const c10::cuda::CUDAGuard guard(given.device());
  const auto f = given.contiguous();
  auto out = torch::empty({f.size(1), f.size(0), f.size(1)}, f.options());
  by_type(f, [&](auto number) {
    using T = decltype(number);
    check(bernoulli_root(f.const_data_ptr<T>(), f.size(0), f.size(1), out.data_ptr<T>(),
                         stream_of(f)),
          "bernoulli_root");
  });
  return out;
}

Tensor pack_positive(const Tensor& given) {
  const c10::cuda::CUDAGuard guard(given.device());
  const auto x = given.contiguous();
  auto bits = torch::empty({(x.numel() + 31) / 32}, x.options().dtype(torch::kInt32));
  by_type(x, [&](auto number) {
    using T = decltype(number);
    check(pack_positive(x.const_data_ptr<T>(), x.numel(),
                        reinterpret_cast<uint32_t*>(bits.data_ptr<int32_t>()), stream_of(x)),
          "pack_positive");
  });
  return bits;
}

Tensor masked_backward(const Tensor& given, const Tensor& bits, int64_t count,
                       const Tensor& given_skip) {
  TORCH_CHECK(takes(given) && bits.device() == given.device() &&
                  bits.numel() == (count + 31) / 32 && given.numel() % count == 0,
              "cuda: masked_backward of ", given.sizes(), " with a mask of ", count, " entries");
  const c10::cuda::CUDAGuard guard(given.device());
  if (given_skip.defined()) expect_like(given_skip, given, "skip");
  const auto g = given.contiguous();
  const auto skip = given_skip.defined() ? given_skip.contiguous() : given_skip;
  auto out = torch::empty_like(g);
  by_type(g, [&](auto number) {
    using T = decltype(number);
    check(masked_backward(g.const_data_ptr<T>(),
                          reinterpret_cast<const uint32_t*>(bits.const_data_ptr<int32_t>()),
                          skip.defined() ? skip.const_data_ptr<T>() : nullptr, 1.0,
                          g.numel() / count, count, out.data_ptr<T>(), stream_of(g)),
          "masked_backward");
  });
  return out;
}

Tensor squared_gradients(const Tensor& given, const Tensor& features) {
  expect_like(features, given, "phi");
  const c10::cuda::CUDAGuard guard(given.device());
  const auto g = given.contiguous(), phi = features.contiguous();
  const auto q = g.size(0), r = g.size(1), n = g.size(2), t = g.size(3), o = g.size(4);
  const auto j = phi.size(3);
  auto out = torch::empty({q, o, j}, g.options().dtype(torch::kFloat64));
  by_type(g, [&](auto number) {
    using T = decltype(number);
    const Workspace workspace(squared_gradients_workspace_bytes(q, r, n, o, j, sizeof(T)), g);
    check(squared_gradients(g.const_data_ptr<T>(), phi.const_data_ptr<T>(), q, r, n, t, o, j,
                            out.data_ptr<double>(), false, workspace.data(), workspace.bytes,
                            stream_of(g)),
          "squared_gradients");
  });
  return out;
}

Tensor conv_squared_gradients(const Tensor& given, const Tensor& images, const Convolution& c) {
  expect_like(images, given, "x");
  const c10::cuda::CUDAGuard guard(given.device());
  const auto g = given.contiguous(), x = channels_last(images);
  const auto r = g.size(1), n = g.size(2), o = g.size(4);
  const auto j = x.size(3) / c.groups * c.kernel[0] * c.kernel[1];
  auto out = torch::empty({c.groups, o, j}, g.options().dtype(torch::kFloat64));
  by_type(g, [&](auto number) {
    using T = decltype(number);
    const Workspace workspace(squared_gradients_workspace_bytes(c.groups, r, n, o, j, sizeof(T)),
                              g);
    check(conv_squared_gradients(g.const_data_ptr<T>(), x.const_data_ptr<T>(), r, n, x.size(1),
                                 x.size(2), x.size(3), o * c.groups, c, out.data_ptr<double>(),
                                 false, workspace.data(), workspace.bytes, stream_of(g)),
          "conv_squared_gradients");
  });
  return out;
}

namespace {

/// What spectral_sums fills; cotangents where they are defined.
void run_spectral_sums(const Tensor& alpha, const Tensor& beta, const Tensor& spectrum,
                       double scale, double precision, Tensor& sums, Tensor& of_b, Tensor& of_a) {
  const c10::cuda::CUDAGuard guard(alpha.device());
  const auto a = alpha.contiguous(), b = beta.contiguous();
  const auto s = spectrum.defined() ? spectrum.contiguous() : spectrum;
  const auto q = a.size(0), j = a.size(1), o = b.size(1);
  by_type(a, [&](auto number) {
    using T = decltype(number);
    const Workspace workspace(spectral_sums_workspace_bytes(q, o, j), a);
    check(spectral_sums(a.const_data_ptr<T>(), b.const_data_ptr<T>(),
                        s.defined() ? s.const_data_ptr<T>() : nullptr, q, o, j, scale, precision,
                        sums.data_ptr<double>(), of_b.defined() ? of_b.data_ptr<double>() : nullptr,
                        of_a.defined() ? of_a.data_ptr<double>() : nullptr, workspace.data(),
                        workspace.bytes, stream_of(a)),
          "spectral_sums");
  });
}

}  // namespace

Tensor spectral_sums(const Tensor& alpha, const Tensor& beta, const Tensor& spectrum, double scale,
                     double precision) {
  auto sums = torch::empty({3}, alpha.options().dtype(torch::kFloat64));
  Tensor of_b, of_a;
  run_spectral_sums(alpha, beta, spectrum, scale, precision, sums, of_b, of_a);
  return sums.cpu();
}

std::pair<Tensor, Tensor> spectral_cotangents(const Tensor& alpha, const Tensor& beta, double scale,
                                              double precision) {
  const auto options = alpha.options().dtype(torch::kFloat64);
  auto sums = torch::empty({3}, options);
  auto of_b = torch::empty(beta.sizes(), options), of_a = torch::empty(alpha.sizes(), options);
  run_spectral_sums(alpha, beta, {}, scale, precision, sums, of_b, of_a);
  return {of_a, of_b};
}

void output_covariance(const Tensor& given, const Tensor& weights, Tensor& out) {
  expect_like(weights, given, "w");
  expect_like(out, given, "out");
  TORCH_CHECK(out.is_contiguous(), "cuda: output_covariance adds to a contiguous tensor");
  const c10::cuda::CUDAGuard guard(given.device());
  const auto g = given.contiguous(), w = weights.contiguous();
  by_type(g, [&](auto number) {
    using T = decltype(number);
    check(output_covariance(g.const_data_ptr<T>(), w.const_data_ptr<T>(), g.size(0), g.size(1),
                            g.size(2), g.size(3), out.data_ptr<T>(), stream_of(g)),
          "output_covariance");
  });
}

Tensor pack_lower(const Tensor& given) {
  const c10::cuda::CUDAGuard guard(given.device());
  const auto matrices = given.contiguous();
  const auto q = matrices.size(0), d = matrices.size(2);
  auto out = torch::empty({q, d * (d + 1) / 2}, matrices.options());
  by_type(matrices, [&](auto number) {
    using T = decltype(number);
    check(pack_lower(matrices.const_data_ptr<T>(), q, d, out.data_ptr<T>(), stream_of(matrices)),
          "pack_lower");
  });
  return out;
}

Tensor unpack_lower(const Tensor& given, int64_t d) {
  const c10::cuda::CUDAGuard guard(given.device());
  const auto packed = given.contiguous();
  auto out = torch::empty({packed.size(0), d, d}, packed.options());
  by_type(packed, [&](auto number) {
    using T = decltype(number);
    check(unpack_lower(packed.const_data_ptr<T>(), packed.size(0), d, out.data_ptr<T>(),
                       stream_of(packed)),
          "unpack_lower");
  });
  return out;
}

}  // namespace evariste::cuda

#else

namespace evariste::cuda {
namespace {

[[noreturn]] void absent() { TORCH_CHECK(false, "cuda: compiled without kernels for a GPU"); }

}  // namespace

bool takes(const Tensor&) { return false; }

Tensor gram(const Tensor&) { absent(); }
Tensor conv_gram(const Tensor&, const Convolution&) { absent(); }
Tensor softmax_root(const Tensor&) { absent(); }
Tensor softmax_sampled_scores(const Tensor&, int64_t, uint64_t, int64_t) { absent(); }
Tensor softmax_score(const Tensor&, const Tensor&) { absent(); }
Tensor bernoulli_root(const Tensor&) { absent(); }
Tensor pack_positive(const Tensor&) { absent(); }
Tensor masked_backward(const Tensor&, const Tensor&, int64_t, const Tensor&) { absent(); }
Tensor squared_gradients(const Tensor&, const Tensor&) { absent(); }
Tensor conv_squared_gradients(const Tensor&, const Tensor&, const Convolution&) { absent(); }
Tensor spectral_sums(const Tensor&, const Tensor&, const Tensor&, double, double) { absent(); }
std::pair<Tensor, Tensor> spectral_cotangents(const Tensor&, const Tensor&, double, double) {
  absent();
}
void output_covariance(const Tensor&, const Tensor&, Tensor&) { absent(); }
Tensor pack_lower(const Tensor&) { absent(); }
Tensor unpack_lower(const Tensor&, int64_t) { absent(); }

}  // namespace evariste::cuda
#endif
