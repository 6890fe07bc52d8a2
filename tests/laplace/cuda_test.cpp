// Every kernel of laplace/cuda against its plain reference, and the references against the engine
// or a brute force, on the same random cases.
//
// Compiled twice. In laplace_tests the kernels run on a CUDA device, and say "skipped" where there
// is none or where they were not compiled: such a test passes without a claim. In
// cuda_emulation_tests the same kernels run on the host, block by block (emulation.cuh).
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <functional>

#include "core/stream.h"
#include "laplace/cuda/reference.h"
#include "laplace/device.h"
#include "laplace/kron.h"
#include "laplace/likelihood.h"
#include "laplace/processes.h"
#include "laplace/statistics.h"
#include "nn/convolution.h"
#include "tests/catch.h"

#if defined(EVARISTE_CUDA_EMULATION)
#include "laplace/cuda/emulation.cuh"
namespace kernels = evariste::cuda_emulated;
#else
namespace kernels = evariste::cuda;
#endif

using namespace evariste;
using kernels::Convolution;
using kernels::Precision;

namespace {

constexpr int64_t kGuard = 64;  // numbers before and after an output that must stay as they are

#if defined(EVARISTE_CUDA_EMULATION)
constexpr bool kCompiled = true;
torch::Device device() { return torch::kCPU; }
bool device_is_there() { return true; }
void set_falling_order(bool falling) { kernels::emulation::falling = falling; }
#else
#if defined(EVARISTE_CUDA)
constexpr bool kCompiled = true;
#else
constexpr bool kCompiled = false;
#endif
torch::Device device() { return torch::kCUDA; }
bool device_is_there() { return kCompiled && has_cuda(); }
void set_falling_order(bool) {}
#endif

/// Whether the kernels can run; says so where they cannot.
bool kernels_run() {
  if (device_is_there()) return true;
  WARN((kCompiled ? "skipped: no CUDA device" : "skipped: compiled without CUDA"));
  return false;
}

/// Random choices of a case.
class Cases {
 public:
  explicit Cases(uint64_t seed) : draws_(Stream(seed)), seed_(seed) {}
  int64_t pick(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(draws_.below(static_cast<uint64_t>(high - low + 1)));
  }
  Tensor numbers(at::IntArrayRef shape, torch::Dtype type) {
    auto generator = at::detail::createCPUGenerator(++seed_);
    return torch::randn(shape, generator, type);
  }

 private:
  Draws draws_;
  uint64_t seed_;
};

Tensor put(const Tensor& x) {
#if defined(EVARISTE_CUDA_EMULATION)
  return x.contiguous().clone();
#else
  return x.contiguous().to(device());
#endif
}

/// Numbers of x at the place `shift` of a larger array: less aligned than an array of its own.
Tensor put_shifted(const Tensor& x, int64_t shift) {
  auto whole = torch::full({x.numel() + shift}, NAN, x.options().device(device()));
  auto part = whole.narrow(0, shift, x.numel()).view(x.sizes());
  part.copy_(x);
  return part;
}

/// An output that has been written by call(output) twice, from NaN or from `before`: the same bits
/// both times, all of them numbers, nothing outside.
Tensor twice(at::IntArrayRef shape, torch::Dtype type, const std::function<int(void*)>& call,
             const Tensor& before = {}) {
  const auto count = c10::multiply_integers(shape);
  Tensor results[2];
  for (const int run : {0, 1}) {
    set_falling_order(run == 1);
    const auto whole =
        torch::full({count + 2 * kGuard}, NAN, torch::TensorOptions(type).device(device()));
    auto out = whole.narrow(0, kGuard, count);
    if (before.defined()) out.copy_(before.flatten());
    REQUIRE(call(out.data_ptr()) == 0);
    const auto host = whole.cpu();
    CHECK(host.narrow(0, 0, kGuard).isnan().all().item<bool>());
    CHECK(host.narrow(0, kGuard + count, kGuard).isnan().all().item<bool>());
    results[run] = host.narrow(0, kGuard, count).clone().view(shape);
    REQUIRE(at::isfinite(results[run]).all().item<bool>());
  }
  set_falling_order(false);
  CHECK(torch::equal(results[0], results[1]));
  return results[0];
}

/// Scratch memory full of NaN.
struct Workspace {
  explicit Workspace(size_t size)
      : bytes(size),
        memory(torch::full({static_cast<int64_t>(size / 8) + 1}, NAN,
                           torch::TensorOptions(torch::kFloat64).device(device()))) {}
  void* data() const { return memory.data_ptr(); }
  size_t bytes;
  Tensor memory;
};

double relative_error(const Tensor& x, const Tensor& expected) {
  const auto a = x.to(torch::kFloat64), b = expected.to(torch::kFloat64);
  return (a - b).norm().item<double>() / std::max(b.norm().item<double>(), 1e-300);
}

/// Frobenius error of a Gram matrix of `terms` rows (specs: numerics).
double tolerance(Precision precision, torch::Dtype type, int64_t terms) {
  if (type == torch::kFloat64) return 1e-13;
  // Of a few products each may be off by two roundings to 10 bits.
  if (precision == Precision::kTf32) return terms < 64 ? 1e-3 : 6e-4;
  if (precision == Precision::kBf16x3) return 1e-5;
  return 2e-6 * std::log2(static_cast<double>(terms) + 2);
}

std::vector<Precision> precisions(torch::Dtype type) {
  if (type == torch::kFloat64) return {Precision::kStrict};
  return {Precision::kStrict, Precision::kTf32, Precision::kBf16x3};
}

/// function(T*, ...) for the tensor's type.
template <class Function>
void by_type(torch::Dtype type, const Function& function) {
  if (type == torch::kFloat64)
    function(double());
  else
    function(float());
}

// Without kernels the calls below must still compile.
#if defined(EVARISTE_CUDA_EMULATION) || defined(EVARISTE_CUDA)
#define EVARISTE_CALL(...) (__VA_ARGS__)
#else
#define EVARISTE_CALL(...) (-1)
#endif

constexpr torch::Dtype kTypes[] = {torch::kFloat32, torch::kFloat64};

/// at::im2col's patches in the order of groups, [G, N, T, J], of x [N, C, H, W].
Tensor patches(const Tensor& x, const Convolution& c) {
  const auto columns = at::im2col(x.to(torch::kFloat64), at::IntArrayRef(c.kernel, 2),
                                  at::IntArrayRef(c.dilation, 2), at::IntArrayRef(c.padding, 2),
                                  at::IntArrayRef(c.stride, 2));
  return columns.view({x.size(0), c.groups, -1, columns.size(2)}).permute({1, 0, 3, 2});
}

struct ConvolutionCase {
  int64_t samples, height, width, channels;
  Convolution convolution;
};

/// Odd and even sizes, strides, dilations, paddings, kernels up to 7, groups.
std::vector<ConvolutionCase> convolution_cases(int64_t count, uint64_t seed) {
  Cases cases(seed);
  std::vector<ConvolutionCase> out = {
      {2, 6, 6, 8, {{3, 3}, {1, 1}, {1, 1}, {1, 1}, 1}},
      {1, 5, 5, 2, {{5, 5}, {1, 1}, {0, 0}, {1, 1}, 1}},  // output smaller than the kernel
      {2, 4, 4, 3, {{7, 7}, {1, 1}, {3, 3}, {1, 1}, 1}},
      {2, 9, 7, 4, {{7, 7}, {2, 2}, {3, 3}, {1, 1}, 1}},
      {3, 8, 8, 20, {{3, 3}, {2, 2}, {1, 1}, {1, 1}, 1}},
      {1, 7, 9, 6, {{3, 3}, {1, 1}, {2, 2}, {2, 2}, 3}},
      {2, 5, 6, 4, {{1, 1}, {1, 1}, {0, 0}, {1, 1}, 1}},
      {2, 5, 6, 4, {{1, 1}, {2, 2}, {0, 0}, {1, 1}, 2}},
      {1, 1, 12, 5, {{1, 4}, {1, 3}, {0, 2}, {1, 1}, 1}},
      {6, 14, 13, 2, {{3, 2}, {1, 1}, {1, 0}, {1, 1}, 1}},  // more pixels than one split
      {1, 4, 3, 68, {{2, 3}, {1, 1}, {1, 1}, {1, 1}, 1}},   // tiles of 128 channels
      {1, 3, 3, 130, {{2, 1}, {1, 1}, {0, 0}, {1, 1}, 1}},  // more than one of them
  };
  while (static_cast<int64_t>(out.size()) < count) {
    ConvolutionCase c = {};
    c.samples = cases.pick(1, 3);
    c.height = cases.pick(1, 11), c.width = cases.pick(1, 11);
    auto& g = c.convolution;
    g.groups = cases.pick(1, 4) == 1 ? 2 : 1;
    c.channels = g.groups * cases.pick(1, 9);
    for (const int axis : {0, 1}) {
      g.kernel[axis] = cases.pick(1, 7), g.stride[axis] = cases.pick(1, 3);
      g.padding[axis] = cases.pick(0, 3), g.dilation[axis] = cases.pick(1, 2);
    }
    if (g.output_size(0, c.height) > 0 && g.output_size(1, c.width) > 0) out.push_back(c);
  }
  return out;
}

std::string text(const ConvolutionCase& c) {
  const auto& g = c.convolution;
  return fmt::format("{} x {} x {} x {}, k {}, s {}, p {}, d {}, groups {}", c.samples, c.height,
                     c.width, c.channels, g.kernel, g.stride, g.padding, g.dilation, g.groups);
}

}  // namespace

TEST_CASE("cuda K1: the convolution factor by autocorrelation is that of the patches",
          "[laplace][cuda]") {
  const bool runs = kernels_run();
  for (const auto& c : convolution_cases(26, 11)) {
    const auto& g = c.convolution;
    for (const auto type : kTypes)
      by_type(type, [&](auto number) {
        using T = decltype(number);
        CAPTURE(text(c), type);
        Cases cases(static_cast<uint64_t>(c.height * 100 + c.width));
        const auto x = cases.numbers({c.samples, c.height, c.width, c.channels}, type);
        const auto phi = patches(x.permute({0, 3, 1, 2}), g).flatten(1, 2);  // [G, N T, J]
        const auto j = phi.size(2);
        const auto before = cases.numbers({c.convolution.groups, j, j}, torch::kFloat64);
        const auto start = before + before.transpose(1, 2);
        const auto brute = start + phi.transpose(1, 2).matmul(phi);
        auto expected = start.clone();
        cuda_reference::conv_gram(x.const_data_ptr<T>(), c.samples, c.height, c.width, c.channels,
                                  g, expected.data_ptr<double>(), true);
        CHECK(relative_error(expected, brute) < 1e-13);
        if (!runs) return;
        const auto from = put(x);
        for (const auto precision : precisions(type)) {
          CAPTURE(static_cast<int>(precision));
          const Workspace workspace(EVARISTE_CALL(kernels::conv_gram_workspace_bytes(
              c.samples, c.height, c.width, c.channels, g, sizeof(T))));
          const auto call = [&](bool accumulate) {
            return [&, accumulate](void* out) {
              return EVARISTE_CALL(
                  kernels::conv_gram(from.template const_data_ptr<T>(), c.samples, c.height,
                                     c.width, c.channels, g, static_cast<double*>(out), accumulate,
                                     precision, workspace.data(), workspace.bytes, nullptr));
            };
          };
          const auto limit = tolerance(precision, type, phi.size(1));
          const auto added = twice(expected.sizes(), torch::kFloat64, call(true), start);
          CHECK(relative_error(added - start, expected - start) < limit);
          CHECK(torch::equal(added, added.transpose(1, 2)));
          if (precision != Precision::kStrict) continue;
          const auto fresh = twice(expected.sizes(), torch::kFloat64, call(false));
          CHECK(relative_error(fresh, expected - start) < limit);
        }
      });
  }
}

TEST_CASE("cuda K1: the engine's convolution factor is the reference's", "[laplace][cuda]") {
  for (const auto& c : convolution_cases(20, 12)) {
    CAPTURE(text(c));
    ConvGeometry g;
    for (const size_t axis : {0, 1}) {
      g.kernel[axis] = c.convolution.kernel[axis], g.stride[axis] = c.convolution.stride[axis];
      g.padding[axis] = c.convolution.padding[axis];
      g.dilation[axis] = c.convolution.dilation[axis];
    }
    g.groups = c.convolution.groups;
    const auto x = Cases(3).numbers({c.samples, c.height, c.width, c.channels}, torch::kFloat64);
    const ConvBlock block(
        torch::ones({g.groups, c.channels / g.groups, g.kernel[0], g.kernel[1]}, torch::kFloat64),
        g);
    const auto engine = block.input_gram(x.permute({0, 3, 1, 2}).contiguous());
    auto expected = torch::full(engine.sizes(), NAN, torch::kFloat64);
    cuda_reference::conv_gram(x.const_data_ptr<double>(), c.samples, c.height, c.width, c.channels,
                              c.convolution, expected.data_ptr<double>(), false);
    CHECK(relative_error(expected, engine) < 1e-13);
  }
}

TEST_CASE("cuda K2: Gram matrices", "[laplace][cuda]") {
  const bool runs = kernels_run();
  struct Case {
    int64_t groups, count, dimension, extra;  // extra columns that are not multiplied
  };
  for (const auto& c : std::vector<Case>{{1, 1, 1, 0},
                                         {2, 5, 3, 1},
                                         {1, 16, 64, 0},
                                         {3, 100, 20, 4},
                                         {1, 33, 65, 0},
                                         {1, 47, 132, 4},
                                         {2, 20, 130, 3},
                                         {1, 700, 12, 0},
                                         {1, 0, 7, 0}})
    for (const auto type : kTypes)
      by_type(type, [&](auto number) {
        using T = decltype(number);
        CAPTURE(c.groups, c.count, c.dimension, c.extra, type);
        Cases cases(21);
        const auto stride = c.dimension + c.extra;
        const auto rows = cases.numbers({c.groups, c.count, stride}, type);
        const auto used = rows.narrow(2, 0, c.dimension).to(torch::kFloat64);
        const auto before = cases.numbers({c.groups, c.dimension, c.dimension}, torch::kFloat64);
        const auto start = before + before.transpose(1, 2);
        auto expected = start.clone();
        cuda_reference::gram(rows.const_data_ptr<T>(), c.groups, c.count, c.dimension, stride,
                             c.count * stride, expected.data_ptr<double>(), true);
        CHECK(relative_error(expected, start + used.transpose(1, 2).matmul(used)) < 1e-13);
        if (!runs) return;
        for (const int64_t shift : {0, 1})
          for (const auto precision : precisions(type)) {
            CAPTURE(static_cast<int>(precision), shift);
            const auto from = put_shifted(rows, shift);
            const Workspace workspace(EVARISTE_CALL(
                kernels::gram_workspace_bytes(c.groups, c.count, c.dimension, sizeof(T))));
            const auto call = [&](bool accumulate) {
              return [&, accumulate](void* out) {
                return EVARISTE_CALL(kernels::gram(from.template const_data_ptr<T>(), c.groups,
                                                   c.count, c.dimension, stride, c.count * stride,
                                                   static_cast<double*>(out), accumulate, precision,
                                                   workspace.data(), workspace.bytes, nullptr));
              };
            };
            const auto limit = tolerance(precision, type, c.count);
            const auto added = twice(expected.sizes(), torch::kFloat64, call(true), start);
            CHECK((c.count == 0 || relative_error(added - start, expected - start) < limit));
            CHECK(torch::equal(added, added.transpose(1, 2)));
            const auto fresh = twice(expected.sizes(), torch::kFloat64, call(false));
            CHECK((c.count == 0 || relative_error(fresh, expected - start) < limit));
          }
      });
}

TEST_CASE("cuda K4: roots and scores of likelihoods", "[laplace][cuda]") {
  const bool runs = kernels_run();
  for (const int64_t classes : {1, 2, 10, 33, 70, 200})
    for (const double size : {1.0, 30.0})
      for (const auto type : kTypes)
        by_type(type, [&](auto number) {
          using T = decltype(number);
          CAPTURE(classes, size, type);
          Cases cases(31);
          const int64_t n = 5, draws = 3, first = 17;
          const auto f = size * cases.numbers({n, classes}, type);
          const auto* pf = f.template const_data_ptr<T>();
          const auto wide = f.to(torch::kFloat64);
          const Stream stream(77);
          const auto labels = torch::arange(n, torch::kLong) % classes;
          const double limit = type == torch::kFloat64 ? 1e-12 : 2e-5;
          const auto from = runs ? put(f) : f;
          const auto* pd = from.template const_data_ptr<T>();

          const auto columns = std::max<int64_t>(1, classes - 1);
          auto root = torch::full({columns, n, classes}, NAN, type);
          cuda_reference::softmax_root(pf, n, classes, root.template data_ptr<T>());
          const auto near = [&](const Tensor& x, const Tensor& expected) {
            return (x.to(torch::kFloat64) - expected.to(torch::kFloat64))
                .abs()
                .max()
                .template item<double>();
          };
          const auto product = root.permute({1, 2, 0}).to(torch::kFloat64);
          CHECK(near(product.matmul(product.transpose(1, 2)), Softmax().hessian(wide)) < limit);
          CHECK(near(root, Softmax().hessian_root(wide)) < limit);
          auto scores = torch::full({draws, n, classes}, NAN, type);
          cuda_reference::softmax_sampled_scores(pf, n, classes, draws, stream.key(), first,
                                                 scores.template data_ptr<T>());
          CHECK(near(scores, Softmax().sampled_scores(wide, draws, stream, first)) < limit);
          auto score = torch::full({n, classes}, NAN, type);
          cuda_reference::softmax_score(pf, labels.const_data_ptr<int64_t>(), n, classes,
                                        score.template data_ptr<T>());
          CHECK(near(score, Softmax().score(wide, labels)) < limit);
          auto bernoulli = torch::full({classes, n, classes}, NAN, type);
          cuda_reference::bernoulli_root(pf, n, classes, bernoulli.template data_ptr<T>());
          CHECK(near(bernoulli.square().sum(0), Bernoulli().hessian(wide).diagonal(0, 1, 2)) <
                limit);
          if (!runs) return;
          const auto places = put(labels);
          CHECK(near(twice(root.sizes(), type,
                           [&](void* out) {
                             return EVARISTE_CALL(kernels::softmax_root(
                                 pd, n, classes, static_cast<T*>(out), nullptr));
                           }),
                     root) < limit);
          CHECK(near(twice(scores.sizes(), type,
                           [&](void* out) {
                             return EVARISTE_CALL(kernels::softmax_sampled_scores(
                                 pd, n, classes, draws, stream.key(), first, static_cast<T*>(out),
                                 nullptr));
                           }),
                     scores) < limit);
          CHECK(near(twice(score.sizes(), type,
                           [&](void* out) {
                             return EVARISTE_CALL(
                                 kernels::softmax_score(pd, places.const_data_ptr<int64_t>(), n,
                                                        classes, static_cast<T*>(out), nullptr));
                           }),
                     score) < limit);
          CHECK(near(twice(bernoulli.sizes(), type,
                           [&](void* out) {
                             return EVARISTE_CALL(kernels::bernoulli_root(
                                 pd, n, classes, static_cast<T*>(out), nullptr));
                           }),
                     bernoulli) < limit);
        });
}

TEST_CASE("cuda K5: the folded backward pass of a rectifier is exact", "[laplace][cuda]") {
  const bool runs = kernels_run();
  for (const int64_t count : {1, 31, 32, 1028, 2000})
    for (const int64_t folds : {1, 3, 9})
      for (const auto type : kTypes)
        by_type(type, [&](auto number) {
          using T = decltype(number);
          CAPTURE(count, folds, type);
          Cases cases(41);
          const auto x = cases.numbers({count}, type), g = cases.numbers({folds, count}, type),
                     skip = cases.numbers({folds, count}, type);
          auto bits = torch::full({(count + 31) / 32}, -1, torch::kInt32);
          auto* words = reinterpret_cast<uint32_t*>(bits.data_ptr<int32_t>());
          cuda_reference::pack_positive(x.const_data_ptr<T>(), count, words);
          const double scale = 0.7;
          for (const bool with_skip : {false, true}) {
            auto expected = torch::full({folds, count}, NAN, type);
            cuda_reference::masked_backward(g.const_data_ptr<T>(), words,
                                            with_skip ? skip.const_data_ptr<T>() : nullptr, scale,
                                            folds, count, expected.template data_ptr<T>());
            const auto product = torch::where(x > 0, g * static_cast<T>(scale), 0);
            CHECK(torch::equal(expected, with_skip ? product + skip : product));
            if (!runs) continue;
            const auto from = put(x), gradient = put(g), other = put(skip);
            auto packed = torch::full({(count + 31) / 32}, -1,
                                      torch::TensorOptions(torch::kInt32).device(device()));
            auto* there = reinterpret_cast<uint32_t*>(packed.data_ptr<int32_t>());
            REQUIRE(EVARISTE_CALL(kernels::pack_positive(from.template const_data_ptr<T>(), count,
                                                         there, nullptr)) == 0);
            CHECK(torch::equal(packed.cpu(), bits));
            const auto out = twice(expected.sizes(), type, [&](void* to) {
              return EVARISTE_CALL(
                  kernels::masked_backward(gradient.template const_data_ptr<T>(), there,
                                           with_skip ? other.template const_data_ptr<T>() : nullptr,
                                           scale, folds, count, static_cast<T*>(to), nullptr));
            });
            CHECK(torch::equal(out, expected));
          }
        });
}

TEST_CASE("cuda K7: squared gradients of shared weights", "[laplace][cuda]") {
  const bool runs = kernels_run();
  struct Case {
    int64_t groups, folds, samples, positions, outputs, inputs;
  };
  for (const auto& c : std::vector<Case>{{1, 1, 1, 1, 1, 1},
                                         {2, 3, 4, 5, 6, 7},
                                         {1, 2, 3, 16, 8, 12},
                                         {1, 2, 2, 17, 66, 68},
                                         {3, 1, 5, 33, 10, 70},
                                         {1, 30, 20, 2, 4, 4}})
    for (const auto type : kTypes)
      by_type(type, [&](auto number) {
        using T = decltype(number);
        CAPTURE(c.groups, c.folds, c.samples, c.positions, c.outputs, c.inputs, type);
        Cases cases(51);
        const auto g = cases.numbers({c.groups, c.folds, c.samples, c.positions, c.outputs}, type);
        const auto phi = cases.numbers({c.groups, c.samples, c.positions, c.inputs}, type);
        const auto brute =
            torch::einsum("qrnto,qntj->qrnoj", {g.to(torch::kFloat64), phi.to(torch::kFloat64)})
                .square()
                .sum({1, 2});
        auto expected = torch::full(brute.sizes(), NAN, torch::kFloat64);
        cuda_reference::squared_gradients(g.const_data_ptr<T>(), phi.const_data_ptr<T>(), c.groups,
                                          c.folds, c.samples, c.positions, c.outputs, c.inputs,
                                          expected.data_ptr<double>(), false);
        CHECK(relative_error(expected, brute) < 1e-13);
        if (!runs) return;
        const auto left = put(g), right = put(phi);
        const Workspace workspace(EVARISTE_CALL(kernels::squared_gradients_workspace_bytes(
            c.groups, c.folds, c.samples, c.outputs, c.inputs, sizeof(T))));
        for (const bool accumulate : {false, true}) {
          const auto start = cases.numbers(brute.sizes(), torch::kFloat64);
          const auto out = twice(
              brute.sizes(), torch::kFloat64,
              [&](void* to) {
                return EVARISTE_CALL(kernels::squared_gradients(
                    left.template const_data_ptr<T>(), right.template const_data_ptr<T>(), c.groups,
                    c.folds, c.samples, c.positions, c.outputs, c.inputs, static_cast<double*>(to),
                    accumulate, workspace.data(), workspace.bytes, nullptr));
              },
              accumulate ? start : Tensor());
          CHECK(relative_error(accumulate ? out - start : out, expected) <
                tolerance(Precision::kStrict, type, c.positions * c.samples * c.folds));
        }
      });
}

TEST_CASE("cuda K7: squared gradients of convolutions without patches", "[laplace][cuda]") {
  const bool runs = kernels_run();
  for (const auto& c : convolution_cases(24, 61))
    for (const auto type : kTypes)
      by_type(type, [&](auto number) {
        using T = decltype(number);
        CAPTURE(text(c), type);
        Cases cases(62);
        const auto& conv = c.convolution;
        const int64_t folds = 2, own = 5;  // outputs of a group
        const auto x = cases.numbers({c.samples, c.height, c.width, c.channels}, type);
        const auto phi = patches(x.permute({0, 3, 1, 2}), conv);  // [G, N, T, J]
        const auto g = cases.numbers({conv.groups, folds, c.samples, phi.size(2), own}, type);
        const auto brute =
            torch::einsum("qrnto,qntj->qrnoj", {g.to(torch::kFloat64), phi}).square().sum({1, 2});
        auto expected = torch::full(brute.sizes(), NAN, torch::kFloat64);
        cuda_reference::conv_squared_gradients(
            g.const_data_ptr<T>(), x.const_data_ptr<T>(), folds, c.samples, c.height, c.width,
            c.channels, own * conv.groups, conv, expected.data_ptr<double>(), false);
        CHECK(relative_error(expected, brute) < 1e-13);
        if (!runs) return;
        const auto left = put(g), right = put(x);
        const Workspace workspace(EVARISTE_CALL(kernels::squared_gradients_workspace_bytes(
            conv.groups, folds, c.samples, own, phi.size(3), sizeof(T))));
        const auto out = twice(brute.sizes(), torch::kFloat64, [&](void* to) {
          return EVARISTE_CALL(kernels::conv_squared_gradients(
              left.template const_data_ptr<T>(), right.template const_data_ptr<T>(), folds,
              c.samples, c.height, c.width, c.channels, own * conv.groups, conv,
              static_cast<double*>(to), false, workspace.data(), workspace.bytes, nullptr));
        });
        CHECK(relative_error(out, expected) <
              tolerance(Precision::kStrict, type, phi.size(2) * c.samples * folds));
      });
}

TEST_CASE("cuda K8: sums over a Kronecker spectrum", "[laplace][cuda]") {
  const bool runs = kernels_run();
  struct Case {
    int64_t groups, outputs, inputs;
    double scale, delta;
  };
  for (const auto& c : std::vector<Case>{{1, 1, 1, 1.0, 1.0},
                                         {2, 5, 7, 0.3, 2.0},
                                         {1, 33, 300, 10.0, 1e-3},
                                         {1, 70, 513, 1.0, 1e8},
                                         {3, 32, 256, 2.0, 0.5}})
    for (const auto type : kTypes)
      by_type(type, [&](auto number) {
        using T = decltype(number);
        CAPTURE(c.groups, c.outputs, c.inputs, c.scale, c.delta, type);
        Cases cases(71);
        // Over ten decades, as spectra are.
        const auto alpha = cases.numbers({c.groups, c.inputs}, type).mul(5).exp();
        const auto beta = cases.numbers({c.groups, c.outputs}, type).mul(5).exp();
        const auto a = alpha.to(torch::kFloat64), b = beta.to(torch::kFloat64);
        const auto spectrum = (beta.unsqueeze(2) * alpha.unsqueeze(1)).contiguous();

        KronFactor factor;
        factor.a.values = std::get<0>(a.sort(1)), factor.b.values = std::get<0>(b.sort(1));
        const auto engine = spectral_sums(factor, c.scale, c.delta);
        const auto lambda = c.scale * b.unsqueeze(2) * a.unsqueeze(1);
        const auto half = 0.5 * c.scale / (lambda + c.delta);
        const auto size_b = c.groups * c.outputs, size_a = c.groups * c.inputs;
        auto expected = torch::full({3 + size_b + size_a}, NAN, torch::kFloat64);
        auto* e = expected.data_ptr<double>();
        cuda_reference::spectral_sums(alpha.template const_data_ptr<T>(),
                                      beta.template const_data_ptr<T>(),
                                      static_cast<const T*>(nullptr), c.groups, c.outputs, c.inputs,
                                      c.scale, c.delta, e, e + 3, e + 3 + size_b);
        const auto brute = torch::cat(
            {torch::tensor({engine.log1p, engine.effective, engine.slope}, torch::kFloat64),
             (half * a.unsqueeze(1)).sum(2).flatten(), (half * b.unsqueeze(2)).sum(1).flatten()});
        CHECK(torch::allclose(expected, brute, 1e-12, 0));
        factor.a.values = a, factor.b.values = b;
        const auto halves = spectral_cotangents(factor, c.scale, c.delta);
        CHECK(torch::allclose(torch::cat({halves.b.flatten(), halves.a.flatten()}),
                              expected.narrow(0, 3, size_b + size_a), 1e-12, 0));
        auto of_spectrum = torch::full({3}, NAN, torch::kFloat64);
        cuda_reference::spectral_sums(
            static_cast<const T*>(nullptr), static_cast<const T*>(nullptr),
            spectrum.template const_data_ptr<T>(), c.groups, c.outputs, c.inputs, c.scale, c.delta,
            of_spectrum.data_ptr<double>(), nullptr, nullptr);
        CHECK(torch::allclose(of_spectrum, expected.narrow(0, 0, 3),
                              type == torch::kFloat64 ? 1e-12 : 1e-5, 0));
        if (!runs) return;
        const auto from_a = put(alpha), from_b = put(beta), from_s = put(spectrum);
        const Workspace workspace(
            EVARISTE_CALL(kernels::spectral_sums_workspace_bytes(c.groups, c.outputs, c.inputs)));
        const auto run = [&](bool cotangents, bool given) {
          return twice({cotangents ? expected.numel() : 3}, torch::kFloat64, [&](void* out) {
            auto* to = static_cast<double*>(out);
            (void)to, (void)given;
            return EVARISTE_CALL(kernels::spectral_sums(
                from_a.template const_data_ptr<T>(), from_b.template const_data_ptr<T>(),
                given ? from_s.template const_data_ptr<T>() : nullptr, c.groups, c.outputs,
                c.inputs, c.scale, c.delta, to, cotangents ? to + 3 : nullptr,
                cotangents ? to + 3 + size_b : nullptr, workspace.data(), workspace.bytes,
                nullptr));
          });
        };
        CHECK(torch::allclose(run(true, false), expected, 1e-12, 0));
        CHECK(torch::allclose(run(false, false), expected.narrow(0, 0, 3), 1e-12, 0));
        CHECK(torch::allclose(run(false, true), of_spectrum, 1e-12, 0));
      });
}

TEST_CASE("cuda K9: covariance of the outputs", "[laplace][cuda]") {
  const bool runs = kernels_run();
  struct Case {
    int64_t groups, columns, samples, outputs;
  };
  for (const auto& c : std::vector<Case>{
           {1, 1, 1, 1}, {1, 10, 3, 64}, {2, 10, 2, 65}, {1, 16, 2, 7}, {2, 37, 2, 130}})
    for (const auto type : kTypes)
      by_type(type, [&](auto number) {
        using T = decltype(number);
        CAPTURE(c.groups, c.columns, c.samples, c.outputs, type);
        Cases cases(81);
        const auto g = cases.numbers({c.groups, c.columns, c.samples, c.outputs}, type);
        const auto w = cases.numbers({c.groups, c.samples, c.outputs}, type).square();
        const auto half = cases.numbers({c.samples, c.columns, c.columns}, type);
        const auto start = half + half.transpose(1, 2);
        const auto brute =
            start.to(torch::kFloat64) +
            torch::einsum("qcni,qni,qdni->ncd",
                          {g.to(torch::kFloat64), w.to(torch::kFloat64), g.to(torch::kFloat64)});
        auto expected = start.clone();
        cuda_reference::output_covariance(g.const_data_ptr<T>(), w.template const_data_ptr<T>(),
                                          c.groups, c.columns, c.samples, c.outputs,
                                          expected.template data_ptr<T>());
        const double limit = type == torch::kFloat64 ? 1e-13 : 2e-6;
        CHECK(relative_error(expected, brute) < limit);
        if (!runs) return;
        const auto left = put(g), weights = put(w);
        const auto out = twice(
            start.sizes(), type,
            [&](void* to) {
              return EVARISTE_CALL(kernels::output_covariance(
                  left.template const_data_ptr<T>(), weights.template const_data_ptr<T>(), c.groups,
                  c.columns, c.samples, c.outputs, static_cast<T*>(to), nullptr));
            },
            start);
        CHECK(relative_error(out, expected) < limit);
        CHECK(torch::equal(out, out.transpose(1, 2)));
      });
}

TEST_CASE("cuda K12: lower triangles there and back", "[laplace][cuda]") {
  const bool runs = kernels_run();
  for (const int64_t dimension : {1, 5, 32, 33, 100, 300})
    for (const int64_t groups : {1, 3})
      for (const auto type : kTypes)
        by_type(type, [&](auto number) {
          using T = decltype(number);
          CAPTURE(dimension, groups, type);
          const auto half = Cases(91).numbers({groups, dimension, dimension}, type);
          const auto matrices = half + half.transpose(1, 2);
          const auto engine = pack_symmetric(matrices);
          auto packed = torch::full(engine.sizes(), NAN, type);
          cuda_reference::pack_lower(matrices.template const_data_ptr<T>(), groups, dimension,
                                     packed.template data_ptr<T>());
          CHECK(torch::equal(packed, engine));
          auto back = torch::full(matrices.sizes(), NAN, type);
          cuda_reference::unpack_lower(packed.template const_data_ptr<T>(), groups, dimension,
                                       back.template data_ptr<T>());
          CHECK(torch::equal(back, matrices));
          CHECK(torch::equal(back, unpack_symmetric(packed, dimension)));
          if (!runs) return;
          const auto from = put(matrices), small = put(packed);
          CHECK(torch::equal(twice(packed.sizes(), type,
                                   [&](void* to) {
                                     return EVARISTE_CALL(kernels::pack_lower(
                                         from.template const_data_ptr<T>(), groups, dimension,
                                         static_cast<T*>(to), nullptr));
                                   }),
                             packed));
          CHECK(torch::equal(twice(matrices.sizes(), type,
                                   [&](void* to) {
                                     return EVARISTE_CALL(kernels::unpack_lower(
                                         small.template const_data_ptr<T>(), groups, dimension,
                                         static_cast<T*>(to), nullptr));
                                   }),
                             matrices));
        });
}
