// What an evidence refresh costs, against epochs of plain training, on three networks: the main
// job's of experiments/layerwise/layerwise.toml, 5000 random images, batch 125; WRN-16-4 of
// bench/nets/wrn16_4.toml, 32 images, batch 8 (names with wrn16_4); and F-FC+CONV for CIFAR-10 of
// bench/nets/cifar10_factored.toml, 1000 images, batch 125 (names with cifar10).
//
// All in one process, repetitions interleaved at random
// (--benchmark_enable_random_interleaving=true), so that bench/table.py can give ratios with their
// spread.
#include <torch/utils.h>

#include <benchmark/benchmark.h>

#include "core/memory.h"
#include "io/config.h"
#include "nn/network.h"
#include "train/trainer.h"

using namespace evariste;

namespace {

constexpr int64_t kClasses = 10;

const std::filesystem::path kRoot = EVARISTE_SOURCE_DIR;

struct Job {
  std::shared_ptr<Network> network;
  int64_t batch, chunk;  // images per step of training and per chunk of a refresh
  Samples data;
  Softmax likelihood;

  Job(std::shared_ptr<Network> made, int64_t images, int64_t step, int64_t at_once)
      : network(std::move(made)), batch(step), chunk(at_once) {
    initialise(*network, Stream(1));
    torch::manual_seed(1);
    auto shape = network->input();
    shape.insert(shape.begin(), images);
    data = {torch::randn(shape), torch::randint(kClasses, {images}, torch::kInt64), 0};
  }
};

Job& main_job() {
  static Job one = [] {
    const auto table = resolve_config(kRoot / "experiments/layerwise/layerwise.toml", "quick", {});
    return Job(build_network(*table["network"].as_table(), "[network]", kClasses), 5000, 125, 500);
  }();
  return one;
}

Job& wrn16_4() {
  static Job one(load_network(kRoot / "bench/nets/wrn16_4.toml"), 32, 8, 8);
  return one;
}

Job& cifar10() {
  static Job one(load_network(kRoot / "bench/nets/cifar10_factored.toml"), 1000, 125, 250);
  return one;
}

/// Forward, backward with weight gradients, SGD step: what any training costs.
void train_plainly(benchmark::State& state, Job& j) {
  torch::NoGradGuard no_grad;
  for (auto _ : state) {
    for (int64_t i = 0; i + j.batch <= j.data.count(); i += j.batch) {
      Tape tape;
      const auto f = j.network->forward(j.data.x.narrow(0, i, j.batch), &tape);
      j.network->backward(
          j.likelihood.score(f, j.data.y.narrow(0, i, j.batch)).unsqueeze(0) / j.batch, tape,
          [](const Block& block, const Tensor& x, const Tensor& g) {
            auto weight = block.weight();
            weight.add_(block.from_matrix(block.gradient(x, g[0])), 0.0);  // same work, no drift
          },
          false);
    }
  }
}

void plain_epoch(benchmark::State& state) { train_plainly(state, main_job()); }
void plain_epoch_wrn16_4(benchmark::State& state) { train_plainly(state, wrn16_4()); }
void plain_epoch_cifar10(benchmark::State& state) { train_plainly(state, cifar10()); }

/// Of the first `images`; 0: all. The evidence's log-determinant at the matched prior, in nats per
/// image, says what an approximation is worth.
void refresh(benchmark::State& state, Job& (*job)(), Fisher fisher, int64_t images, bool bases,
             Correction correction = Correction::kTrace) {
  auto& j = job();
  const auto count = images > 0 ? images : j.data.count();
  const Samples part = {j.data.x.narrow(0, 0, count), j.data.y.narrow(0, 0, count), j.data.count()};
  CurvatureOptions options;
  options.fisher = fisher;
  options.correction = correction;
  options.bases = bases;
  options.eigen_type = torch::kFloat32;
  options.batch = j.chunk;
  const auto priors = make_priors(*j.network, PriorUpdateConfig(), {}, j.data.count());
  double eigen = 0, log_det = 0;
  for (auto _ : state) {
    const auto fit = fit_curvature(*j.network, j.likelihood, part, options);
    eigen += fit.seconds_eigen;
    state.PauseTiming();
    log_det = evaluate_evidence(fit, j.likelihood, priors).log_det_ratio;
    state.ResumeTiming();
  }
  state.counters["eigen_seconds"] = benchmark::Counter(eigen, benchmark::Counter::kAvgIterations);
  state.counters["log_det_per_image"] = log_det / static_cast<double>(j.data.count());
}

void kfac_epoch(benchmark::State& state) {
  auto& j = main_job();
  CurvatureOptions options;
  options.fisher = Fisher::kSketch;
  options.eigen_type = torch::kFloat32;
  const auto fit = fit_curvature(*j.network, j.likelihood, j.data, options);
  const auto& kron = static_cast<const KronCurvature&>(*fit.curvature);
  KfacStep step(named_blocks(*j.network), KfacConfig());
  const std::vector<double> precisions(kron.blocks().size(), 100.0);
  for (auto _ : state) {
    step.enter(kron, precisions);
    for (int64_t i = 0; i + j.batch <= j.data.count(); i += j.batch) {
      const auto x = j.data.x.narrow(0, i, j.batch), y = j.data.y.narrow(0, i, j.batch);
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
          1e-6, static_cast<double>(j.data.count()) / static_cast<double>(j.batch), false);
    }
    step.leave();
  }
}

}  // namespace

#define EVARISTE_REFRESH(name, ...) \
  BENCHMARK_CAPTURE(refresh, name, __VA_ARGS__)->Unit(benchmark::kMillisecond)->UseRealTime()

BENCHMARK(plain_epoch)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(kfac_epoch)->Unit(benchmark::kMillisecond)->UseRealTime();
EVARISTE_REFRESH(exact_values, main_job, Fisher::kExact, 0, false);
EVARISTE_REFRESH(exact_bases, main_job, Fisher::kExact, 0, true);
EVARISTE_REFRESH(sketch_2000, main_job, Fisher::kSketch, 2000, true);
BENCHMARK(plain_epoch_wrn16_4)->Unit(benchmark::kMillisecond)->UseRealTime();
EVARISTE_REFRESH(exact_values_wrn16_4, wrn16_4, Fisher::kExact, 0, false);
EVARISTE_REFRESH(exact_bases_wrn16_4, wrn16_4, Fisher::kExact, 0, true);
EVARISTE_REFRESH(sketch_wrn16_4, wrn16_4, Fisher::kSketch, 0, true);
BENCHMARK(plain_epoch_cifar10)->Unit(benchmark::kMillisecond)->UseRealTime();
EVARISTE_REFRESH(exact_plain_cifar10, cifar10, Fisher::kExact, 0, false, Correction::kNone);
EVARISTE_REFRESH(exact_cifar10, cifar10, Fisher::kExact, 0, false, Correction::kTrace);
EVARISTE_REFRESH(mc_plain_cifar10, cifar10, Fisher::kMonteCarlo, 0, false, Correction::kNone);
EVARISTE_REFRESH(mc_cifar10, cifar10, Fisher::kMonteCarlo, 0, false, Correction::kTrace);
EVARISTE_REFRESH(sketch_cifar10, cifar10, Fisher::kSketch, 0, false, Correction::kTrace);

int main(int argc, char** argv) {
  keep_freed_memory();  // as the programs do
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
