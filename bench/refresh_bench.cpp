// What an evidence refresh of the main job's network costs, against epochs of plain training.
//
// The network is that of experiments/layerwise/layerwise.toml, 5000 random images, batch 125. All
// in one process, repetitions interleaved at random (--benchmark_enable_random_interleaving=true),
// so that bench/table.py can give ratios with their spread.
#include <torch/torch.h>

#include <benchmark/benchmark.h>

#include "core/memory.h"
#include "io/config.h"
#include "train/trainer.h"

using namespace evariste;

namespace {

constexpr int64_t kImages = 5000, kBatch = 125, kClasses = 10;

struct Job {
  std::shared_ptr<Network> network;
  Samples data;
  Softmax likelihood;

  Job() {
    const auto table = resolve_config(
        std::filesystem::path(EVARISTE_SOURCE_DIR) / "experiments/layerwise/layerwise.toml",
        "quick", {});
    network = build_network(*table["network"].as_table(), "[network]", kClasses);
    initialise(*network, Stream(1));
    torch::manual_seed(1);
    data = {torch::randn({kImages, 1, 32, 32}), torch::randint(kClasses, {kImages}, torch::kInt64),
            0};
  }
};

Job& job() {
  static Job one;
  return one;
}

/// Forward, backward with weight gradients, SGD step: what any training costs.
void plain_epoch(benchmark::State& state) {
  torch::NoGradGuard no_grad;
  auto& j = job();
  for (auto _ : state) {
    for (int64_t i = 0; i + kBatch <= kImages; i += kBatch) {
      Tape tape;
      const auto f = j.network->forward(j.data.x.narrow(0, i, kBatch), &tape);
      j.network->backward(
          j.likelihood.score(f, j.data.y.narrow(0, i, kBatch)).unsqueeze(0) / kBatch, tape,
          [](const Block& block, const Tensor& x, const Tensor& g) {
            auto weight = block.weight();
            weight.add_(block.from_matrix(block.gradient(x, g[0])), 0.0);  // same work, no drift
          },
          false);
    }
  }
}

void refresh(benchmark::State& state, Fisher fisher, int64_t images, bool bases) {
  auto& j = job();
  const Samples part = {j.data.x.narrow(0, 0, images), j.data.y.narrow(0, 0, images), kImages};
  CurvatureOptions options;
  options.fisher = fisher;
  options.bases = bases;
  options.eigen_type = torch::kFloat32;
  options.batch = 500;
  double eigen = 0;
  for (auto _ : state) {
    const auto fit = fit_curvature(*j.network, j.likelihood, part, options);
    eigen += fit.seconds_eigen;
    benchmark::DoNotOptimize(fit.log_likelihood);
  }
  state.counters["eigen_seconds"] = benchmark::Counter(eigen, benchmark::Counter::kAvgIterations);
}

void kfac_epoch(benchmark::State& state) {
  auto& j = job();
  CurvatureOptions options;
  options.fisher = Fisher::kSketch;
  options.eigen_type = torch::kFloat32;
  const auto fit = fit_curvature(*j.network, j.likelihood, j.data, options);
  const auto& kron = static_cast<const KronCurvature&>(*fit.curvature);
  KfacStep step(named_blocks(*j.network), KfacConfig());
  const std::vector<double> precisions(kron.blocks().size(), 100.0);
  for (auto _ : state) {
    step.enter(kron, precisions);
    for (int64_t i = 0; i + kBatch <= kImages; i += kBatch) {
      const auto x = j.data.x.narrow(0, i, kBatch), y = j.data.y.narrow(0, i, kBatch);
      step.step(
          [&](bool with_gradient) {
            Tape tape;
            const auto f = j.network->forward(x, with_gradient ? &tape : nullptr);
            if (with_gradient)
              j.network->backward(
                  j.likelihood.score(f, y).unsqueeze(0), tape,
                  [&](const Block& block, const Tensor& input, const Tensor& g) {
                    step.gradient(block, input, g[0]);
                  },
                  false);
            return -j.likelihood.log_density(f, y).sum().item<double>();
          },
          1e-6, static_cast<double>(kImages) / kBatch, false);
    }
    step.leave();
  }
}

}  // namespace

BENCHMARK(plain_epoch)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(kfac_epoch)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK_CAPTURE(refresh, exact_values, Fisher::kExact, kImages, false)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK_CAPTURE(refresh, exact_bases, Fisher::kExact, kImages, true)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK_CAPTURE(refresh, sketch_2000, Fisher::kSketch, 2000, true)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

int main(int argc, char** argv) {
  keep_freed_memory();  // as the programs do
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
