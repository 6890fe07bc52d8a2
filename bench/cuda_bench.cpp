// Times the kernels of laplace/cuda at the shapes of a WRN16-4 on 32 x 32 images (16, 64, 128, 256
// channels), next to what the card does at best: a device-to-device copy and cuBLAS products, both
// measured here.
//
// One JSON line for each kernel, then a table on stderr. Device events, median of --repeats runs
// after one that does not count; inputs are random, and larger than the cache but where noted.
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <torch/utils.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <functional>
#include <vector>

#include "laplace/cuda/kernels.h"
#include "laplace/device.h"

using namespace evariste::cuda;
using torch::Tensor;

namespace {

void check(int error, const char* what) {
  if (error == cudaSuccess) return;
  fmt::print(stderr, "{}: {}\n", what, cudaGetErrorString(static_cast<cudaError_t>(error)));
  std::exit(1);
}

/// Milliseconds on the device.
double median_ms(int repeats, const std::function<void()>& run) {
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "event"), check(cudaEventCreate(&end), "event");
  std::vector<float> times;
  for (int i = 0; i <= repeats; ++i) {
    check(cudaEventRecord(begin, nullptr), "event");
    run();
    check(cudaEventRecord(end, nullptr), "event");
    check(cudaEventSynchronize(end), "synchronize");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end), "event");
    if (i > 0) times.push_back(ms);
  }
  check(cudaEventDestroy(begin), "event"), check(cudaEventDestroy(end), "event");
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return static_cast<double>(times[times.size() / 2]);
}

struct Line {
  std::string kernel, shape;
  double ms, gbytes, gflop;  // moved at least, and done
};

class Bench {
 public:
  Bench(int repeats, int64_t images) : repeats_(repeats), images_(images) {}

  void ceilings() {
    const auto from = numbers({1 << 28}), to = torch::empty_like(from);
    copy_ = 2e-6 * static_cast<double>(from.nbytes()) /
            median_ms(repeats_, [&] { Tensor(to).copy_(from); });
    const int64_t n = 8192;
    const auto gemm = [&](torch::Dtype type) {
      const auto a = numbers({n, n}).to(type), b = numbers({n, n}).to(type);
      auto c = torch::empty_like(a);
      return 2e-9 * static_cast<double>(n * n * n) /
             median_ms(repeats_, [&] { at::mm_out(c, a, b); });
    };
    sgemm_ = gemm(torch::kFloat32), bf16_ = gemm(torch::kBFloat16);
    fmt::print("{{\"copy_GB_s\": {:.0f}, \"sgemm_TFLOP_s\": {:.1f}, \"bf16_TFLOP_s\": {:.1f}}}\n",
               copy_, sgemm_, bf16_);
  }

  void conv_factor(int64_t channels, int64_t size, int64_t stride, Precision precision) {
    const Convolution c{{3, 3}, {stride, stride}, {1, 1}, {1, 1}, 1};
    const auto x = numbers({images_, size, size, channels});
    const auto out = results(9 * channels * 9 * channels);
    const auto workspace =
        bytes(conv_gram_workspace_bytes(images_, size, size, channels, c, sizeof(float)));
    // Flops of the distinct products, 13 of a 3 x 3 kernel at stride 1 and 34 at stride 2.
    const double products = stride == 1 ? 13 : 34;
    const double pixels =
        static_cast<double>(images_ * size * size) / static_cast<double>(stride * stride);
    time(fmt::format("K1 conv_gram {}", name(precision)),
         fmt::format("{} x {}^2 x {}, stride {}", images_, size, channels, stride),
         static_cast<double>(x.nbytes() + out.nbytes()),
         2 * products * pixels * static_cast<double>(channels * channels), [&] {
           return conv_gram(x.const_data_ptr<float>(), images_, size, size, channels, c,
                            out.data_ptr<double>(), false, precision, workspace.data_ptr(),
                            workspace.nbytes(), nullptr);
         });
  }

  void factor(int64_t rows, int64_t dimension, Precision precision) {
    const auto x = numbers({rows, dimension});
    const auto out = results(dimension * dimension);
    const auto workspace = bytes(gram_workspace_bytes(1, rows, dimension, sizeof(float)));
    time(fmt::format("K2 gram {}", name(precision)), fmt::format("{} x {}", rows, dimension),
         static_cast<double>(x.nbytes() + out.nbytes()),
         static_cast<double>(rows) * static_cast<double>(dimension * (dimension + 1)), [&] {
           return gram(x.const_data_ptr<float>(), 1, rows, dimension, dimension, rows * dimension,
                       out.data_ptr<double>(), false, precision, workspace.data_ptr(),
                       workspace.nbytes(), nullptr);
         });
  }

  void root(int64_t samples, int64_t classes) {
    const auto f = numbers({samples, classes}), out = numbers({classes - 1, samples, classes});
    time("K4 softmax_root", fmt::format("{} x {}", samples, classes),
         static_cast<double>(f.nbytes() + out.nbytes()), 0, [&] {
           return softmax_root(f.const_data_ptr<float>(), samples, classes, out.data_ptr<float>(),
                               nullptr);
         });
  }

  void rectifier(int64_t folds, int64_t count) {
    const auto x = numbers({count}), g = numbers({folds, count}), skip = numbers({folds, count});
    auto out = torch::empty_like(g);
    const auto bits = bytes(static_cast<size_t>((count + 31) / 32 * 4));
    auto* words = static_cast<uint32_t*>(bits.data_ptr());
    time("K5 pack_positive", fmt::format("{}", count),
         static_cast<double>(x.nbytes() + bits.nbytes()), 0,
         [&] { return pack_positive(x.const_data_ptr<float>(), count, words, nullptr); });
    for (const bool with_skip : {false, true})
      time(with_skip ? "K5 masked_backward + skip" : "K5 masked_backward",
           fmt::format("{} x {}", folds, count),
           static_cast<double>((with_skip ? 3 : 2) * g.nbytes() + bits.nbytes()), 0, [&] {
             return masked_backward(g.const_data_ptr<float>(), words,
                                    with_skip ? skip.const_data_ptr<float>() : nullptr, 1.0, folds,
                                    count, out.data_ptr<float>(), nullptr);
           });
  }

  void squares(int64_t folds, int64_t channels, int64_t size) {
    const Convolution c{{3, 3}, {1, 1}, {1, 1}, {1, 1}, 1};
    const auto images = std::min<int64_t>(images_, 50), positions = size * size;
    const auto x = numbers({images, size, size, channels}),
               g = numbers({folds, images, positions, channels});
    const auto inputs = 9 * channels;
    const auto out = results(channels * inputs);
    const auto workspace =
        bytes(squared_gradients_workspace_bytes(1, folds, images, channels, inputs, sizeof(float)));
    time("K7 conv_squared_gradients",
         fmt::format("{} x {} x {}^2 x {}", folds, images, size, channels),
         static_cast<double>(x.nbytes() + g.nbytes() + out.nbytes()),
         2.0 * static_cast<double>(folds * images * positions) *
             static_cast<double>(channels * inputs),
         [&] {
           return conv_squared_gradients(g.const_data_ptr<float>(), x.const_data_ptr<float>(),
                                         folds, images, size, size, channels, channels, c,
                                         out.data_ptr<double>(), false, workspace.data_ptr(),
                                         workspace.nbytes(), nullptr);
         });
  }

  void spectrum(int64_t outputs, int64_t inputs) {
    const auto a = results(inputs).uniform_(), b = results(outputs).uniform_();
    const auto sums = results(3), cotangent_a = results(inputs), cotangent_b = results(outputs);
    const auto workspace = bytes(spectral_sums_workspace_bytes(1, outputs, inputs));
    time("K8 spectral_sums (in cache)", fmt::format("{} x {}", outputs, inputs),
         static_cast<double>(a.nbytes() + b.nbytes()), 0, [&] {
           return spectral_sums(a.const_data_ptr<double>(), b.const_data_ptr<double>(),
                                static_cast<const double*>(nullptr), 1, outputs, inputs, 1.0, 0.1,
                                sums.data_ptr<double>(), cotangent_b.data_ptr<double>(),
                                cotangent_a.data_ptr<double>(), workspace.data_ptr(),
                                workspace.nbytes(), nullptr);
         });
  }

  void covariance(int64_t columns, int64_t samples, int64_t outputs) {
    const auto g = numbers({columns, samples, outputs}), w = numbers({samples, outputs}),
               out = numbers({samples, columns, columns});
    time("K9 output_covariance", fmt::format("{} x {} x {}", columns, samples, outputs),
         static_cast<double>(g.nbytes() + w.nbytes() + 2 * out.nbytes()),
         static_cast<double>(samples * outputs) * static_cast<double>(columns * (columns + 1)),
         [&] {
           return output_covariance(g.const_data_ptr<float>(), w.const_data_ptr<float>(), 1,
                                    columns, samples, outputs, out.data_ptr<float>(), nullptr);
         });
  }

  void triangle(int64_t dimension) {
    const auto full = results(dimension * dimension).uniform_();
    const auto packed = results(dimension * (dimension + 1) / 2);
    time("K12 pack_lower", fmt::format("{}", dimension), 2.0 * static_cast<double>(packed.nbytes()),
         0, [&] {
           return pack_lower(full.const_data_ptr<double>(), 1, dimension, packed.data_ptr<double>(),
                             nullptr);
         });
    time("K12 unpack_lower", fmt::format("{}", dimension),
         static_cast<double>(packed.nbytes() + full.nbytes()), 0, [&] {
           return unpack_lower(packed.const_data_ptr<double>(), 1, dimension,
                               full.data_ptr<double>(), nullptr);
         });
  }

  void table() const {
    fmt::print(stderr, "{:<28}{:<26}{:>10}{:>9}{:>8}{:>9}{:>9}\n", "kernel", "shape", "ms", "GB/s",
               "copy", "TFLOP/s", "bf16");
    for (const auto& l : lines_)
      fmt::print(stderr, "{:<28}{:<26}{:>10.3f}{:>9.0f}{:>7.0f}%{:>9.1f}{:>8.1f}%\n", l.kernel,
                 l.shape, l.ms, l.gbytes / l.ms * 1e3, l.gbytes / l.ms * 1e5 / copy_,
                 l.gflop / l.ms, l.gflop / l.ms * 100 / bf16_);
  }

 private:
  static std::string name(Precision p) {
    return p == Precision::kStrict ? "fp32" : p == Precision::kTf32 ? "tf32" : "bf16x3";
  }
  Tensor numbers(at::IntArrayRef shape) const { return torch::randn(shape, torch::kCUDA); }
  Tensor results(int64_t count) const {
    return torch::empty({count}, torch::TensorOptions(torch::kFloat64).device(torch::kCUDA));
  }
  Tensor bytes(size_t count) const {
    return torch::empty({static_cast<int64_t>(std::max<size_t>(count, 1))},
                        torch::TensorOptions(torch::kUInt8).device(torch::kCUDA));
  }
  void time(const std::string& kernel, const std::string& shape, double moved, double flops,
            const std::function<int()>& run) {
    const double ms = median_ms(repeats_, [&] { check(run(), kernel.c_str()); });
    lines_.push_back({kernel, shape, ms, moved / 1e9, flops / 1e9});
    fmt::print(
        "{{\"kernel\": \"{}\", \"shape\": \"{}\", \"ms\": {:.4f}, \"GB_s\": {:.1f}, "
        "\"TFLOP_s\": {:.2f}}}\n",
        kernel, shape, ms, moved / 1e6 / ms, flops / 1e9 / ms);
  }

  int repeats_;
  int64_t images_;
  double copy_ = 1, sgemm_ = 1, bf16_ = 1;
  std::vector<Line> lines_;
};

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Times the CUDA kernels at the shapes of a WRN16-4");
  int repeats = 9;
  int64_t images = 250;
  app.add_option("--repeats", repeats, "runs of which the median counts")
      ->check(CLI::Range(5, 999));
  app.add_option("--images", images, "minibatch")->check(CLI::Range(1, 10000));
  CLI11_PARSE(app, argc, argv);
  if (!evariste::has_cuda()) {
    fmt::print(stderr, "no CUDA device\n");
    return 2;
  }
  at::globalContext().setAllowTF32CuBLAS(false);
  Bench bench(repeats, images);
  bench.ceilings();
  for (const auto precision : {Precision::kStrict, Precision::kTf32, Precision::kBf16x3}) {
    bench.conv_factor(16, 32, 1, precision);
    bench.conv_factor(64, 32, 1, precision);
    bench.conv_factor(64, 32, 2, precision);
    bench.conv_factor(128, 16, 1, precision);
    bench.conv_factor(256, 8, 1, precision);
    bench.factor(images * 1024, 64, precision);
    bench.factor(9 * images * 256, 128, precision);
    bench.factor(9 * images * 64, 256, precision);
    bench.factor(50000, 2304, precision);
  }
  bench.root(10000, 10);
  bench.root(1000, 100);
  bench.rectifier(9, images * 64 * 1024);
  bench.squares(9, 64, 32);
  bench.squares(9, 256, 8);
  bench.spectrum(256, 2304);
  bench.covariance(10, 10000, 256);
  bench.covariance(100, 1000, 256);
  bench.triangle(2304);
  bench.table();
  return 0;
}
