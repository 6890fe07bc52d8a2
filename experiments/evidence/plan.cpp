#include "experiments/evidence/plan.h"

#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <set>

#include "core/error.h"
#include "laplace/low_rank.h"

namespace evariste {
namespace {

constexpr int64_t kTileEntries = 1 << 23;  // as in laplace/statistics.cpp
constexpr int64_t kProbeSamples = 32;      // enough to time, few enough to wait for

int64_t resident_bytes() {
  int64_t total = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

double machine_bytes() {
  return static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
}

/// Entries of all different tensors on a tape, and of the largest one.
struct TapeSize {
  int64_t entries = 0, widest = 0;
  std::set<const void*> seen;

  void add(const Tape& tape) {
    for (const auto& tensor : {tape.x, tape.aux, tape.output}) {
      if (!tensor.defined()) continue;
      widest = std::max(widest, tensor.numel());
      if (seen.insert(tensor.storage().data()).second) entries += tensor.numel();
    }
    for (const auto& child : tape.children) add(child);
  }
};

int64_t columns_of(const EvidenceOptions& options, int64_t outputs) {
  if (options.fisher == "mc") return options.mc_samples;
  if (options.fisher == "empirical") return 1;
  return options.likelihood == "classification" ? std::max<int64_t>(outputs - 1, 1) : outputs;
}

struct Shape {
  int64_t q, o, j;
  int64_t parameters() const { return q * o * j; }
};

std::vector<Shape> block_shapes(const EvidenceOptions& options, Network& network) {
  std::vector<std::shared_ptr<Block>> owned;
  std::vector<Shape> shapes;
  for (const auto* block :
       curvature_blocks(network, curvature_options(options, Stream(0), true), owned)) {
    const auto value = block->value();
    shapes.push_back({value.size(0), value.size(1), value.size(2)});
  }
  return shapes;
}

}  // namespace

int64_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

EvidencePlan plan_memory(const EvidenceOptions& options, EvidenceProblem& problem) {
  torch::NoGradGuard no_grad;
  auto& network = *problem.network;
  const int64_t outputs = network.outputs();
  const auto batch = std::min(options.batch, problem.train.count());
  const auto element = static_cast<int64_t>(c10::elementSize(scalar_type(options)));
  const auto columns = columns_of(options, outputs);

  Tape tape;
  const auto f = network.forward(problem.train.x.narrow(0, 0, 1), &tape);
  network.backward(
      torch::zeros({1, 1, outputs}, f.options()), tape,
      [](const Block&, const Tensor&, const Tensor&) {}, false);
  TapeSize sizes;
  sizes.add(tape);
  const auto base = resident_bytes();

  const auto cotangents = problem.test ? std::max(columns, outputs) : columns;
  int64_t chunk = batch * element * (sizes.entries + 2 * (cotangents + 1) * sizes.widest);
  int64_t curvature = 0, workspace = 0, parameters = 0, tile = 0;
  const bool is_kron = options.structure == "kron" || options.structure == "ekfac";
  const bool bases = options.structure == "ekfac" || options.checks == "on" || problem.test ||
                     options.polish > 0 || !options.save.empty();
  for (const auto& shape : block_shapes(options, network)) {
    parameters += shape.parameters();
    tile = std::max(tile, 2 * std::min(batch * cotangents * shape.parameters(), kTileEntries));
    if (is_kron) {
      if (options.structure == "ekfac") curvature += 8 * shape.parameters();
      curvature += 8 * shape.q * (shape.j * shape.j + shape.o * shape.o) * (bases ? 2 : 1);
      const auto widest = std::max(shape.j, shape.o);
      workspace = std::max(workspace, 8 * 4 * shape.q * widest * widest);
    }
  }
  chunk += tile * element;
  if (options.structure == "diag") curvature = 8 * parameters;
  if (options.structure == "lowrank") {  // a subspace, its image and their decomposition
    const auto k = options.rank + LowRankOptions().oversampling;
    curvature = 4 * 8 * parameters * k;
    chunk = batch * element * (sizes.entries + 2 * (k + 1) * sizes.widest) + tile * element;
  }
  if (options.structure == "full" || options.structure == "lastlayer") {
    const auto dense = 8.0 * static_cast<double>(parameters) * static_cast<double>(parameters);
    if (4 * dense > machine_bytes())
      throw UsageError(fmt::format(
          "--structure {} of {} parameters needs about {:.3g} GB, this machine has {:.3g} GB: use "
          "kron or diag",
          options.structure, parameters, 4e-9 * dense, 1e-9 * machine_bytes()));
    curvature = 8 * parameters * parameters;
    workspace = 3 * curvature + batch * cotangents * parameters * (element + 16);
  }
  int64_t predictive = 0;
  if (problem.test) {
    predictive = 2 * problem.test->count() * outputs * outputs * 8;
    if (options.predictive == "mc")
      predictive += options.draws * problem.test->count() * outputs * 24;
  }
  EvidencePlan plan;
  plan.peak_bytes =
      std::max(peak_resident_bytes(), base + chunk + curvature + workspace + predictive);
  return plan;
}

double predict_seconds(const EvidenceOptions& options, EvidenceProblem& problem) {
  const auto& train = problem.train;
  const auto count = std::min(kProbeSamples, train.count());
  const Samples few{train.x.narrow(0, 0, count), train.y.narrow(0, 0, count), 0};
  const auto probe = curvature_options(options, Stream(0), false);
  fit_curvature(*problem.network, *problem.likelihood, few, probe);  // warm
  const auto fit = fit_curvature(*problem.network, *problem.likelihood, few, probe);
  if (options.structure == "lowrank") {
    const auto low =
        fit_problem(options, *problem.network, *problem.likelihood, few, Stream(0), true);
    return low.seconds_pass * static_cast<double>(train.count()) / static_cast<double>(count);
  }
  double seconds =
      fit.seconds_pass * static_cast<double>(train.count()) / static_cast<double>(count);
  if (options.structure != "diag") {
    using Clock = std::chrono::steady_clock;
    constexpr int64_t kSize = 256;
    const auto start = Clock::now();
    at::linalg_eigh(torch::eye(kSize, torch::kFloat64) + 0.01, "L");
    const auto cubed = std::chrono::duration<double>(Clock::now() - start).count() /
                       static_cast<double>(kSize * kSize * kSize);
    double flops = 0, parameters = 0;
    for (const auto& shape : block_shapes(options, *problem.network)) {
      const auto o = static_cast<double>(shape.o), j = static_cast<double>(shape.j);
      flops += static_cast<double>(shape.q) * (o * o * o + j * j * j);
      parameters += static_cast<double>(shape.parameters());
    }
    const bool is_kron = options.structure == "kron" || options.structure == "ekfac";
    seconds += cubed * (is_kron ? flops : parameters * parameters * parameters);
  }
  return seconds * static_cast<double>(1 + options.polish);
}

}  // namespace evariste
