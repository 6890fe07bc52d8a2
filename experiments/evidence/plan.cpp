#include "experiments/evidence/plan.h"

#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <fstream>

#include "core/error.h"
#include "laplace/low_rank.h"

namespace evariste {
namespace {

constexpr int64_t kProbeSamples = 32;  // enough to time, few enough to wait for

int64_t resident_bytes() {
  int64_t total = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
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

/// What comes after the fit, while the curvature stays: predictions of test and validation data.
double predictive_bytes(const EvidenceOptions& options, EvidenceProblem& problem) {
  auto& network = *problem.network;
  const auto c = static_cast<double>(network.outputs());
  const auto bytes_of = [&](const Samples& data, int64_t at_once) {
    const auto count = static_cast<double>(at_once);
    const auto chunk = std::min(options.batch, data.count());
    double draws = options.predictive == "mc" ? static_cast<double>(options.draws) : 0.0;
    draws = std::max(draws, static_cast<double>(options.samples));
    return pass_bytes(network, data, chunk, network.outputs()) + 16 * count * c * c +
           24 * draws * count * c;
  };
  double bytes = 0;
  if (problem.test) bytes = bytes_of(*problem.test, problem.test->count());
  if (problem.validation)
    bytes = std::max(
        bytes, bytes_of(*problem.validation, std::min(options.batch, problem.validation->count())));
  return bytes;
}

EvidencePlan with_peak(EvidencePlan plan, int64_t base, double other) {
  plan.peak_bytes =
      std::max(peak_resident_bytes(), base + static_cast<int64_t>(plan.curvature.bytes(other)));
  return plan;
}

}  // namespace

int64_t peak_resident_bytes() {
  // The kernel's count for getrusage starts with the peak of the process that started this one.
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return std::stoll(line.substr(6)) * 1024;
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

EvidencePlan plan_memory(const EvidenceOptions& options, EvidenceProblem& problem) {
  torch::NoGradGuard no_grad;
  auto& network = *problem.network;
  const auto batch = std::min(options.batch, problem.train.count());
  const bool bases = needs_bases(options) || options.polish > 0;
  const auto likelihood = make_likelihood(options.likelihood, options.noise);
  EvidencePlan plan;
  if (options.bound != "none" && options.bound_samples > problem.train.count())
    throw UsageError(fmt::format("--bound-samples: expected 1 ... {} (the data), found {}",
                                 problem.train.count(), options.bound_samples));
  const auto budget =
      options.budget > 0 ? 1e9 * options.budget : default_budget_bytes(problem.train.x.device());
  if (options.structure == "lowrank") {  // a subspace, its image and their decomposition
    const auto k = options.rank + LowRankOptions().oversampling;
    double parameters = 0;
    for (const auto& shape : block_shapes(options, network))
      parameters += static_cast<double>(shape.parameters());
    plan.curvature.stages = {{"pass", pass_bytes(network, problem.train, batch, k), 0},
                             {"curvature", 4 * 8 * parameters * static_cast<double>(k), 0}};
    if (plan.curvature.bytes() > budget)
      throw BudgetExceeded(plan.curvature, budget, "lowrank", "use a smaller rank or batch");
  } else {
    const auto curvature = curvature_options(options, Stream(0), bases);
    plan.curvature = plan_curvature(network, *likelihood, problem.train, curvature);
    expect_within(plan.curvature, budget, network, *likelihood, problem.train, curvature,
                  options.prior == "diagonal");
  }
  const auto base = resident_bytes();
  double other = predictive_bytes(options, problem);
  if (options.bound != "none" && options.bound != "parametric") {
    // The kernel of the outputs of a part, in both precisions and with what its determinant takes.
    const auto outputs = static_cast<double>(problem.network->outputs());
    const double rows = static_cast<double>(options.bound_samples) * outputs;
    const PlannedStage kernel{"bound", 40 * rows * rows, rows * rows * rows / 3};
    if (kernel.bytes > budget) {
      plan.curvature.stages = {kernel};
      throw BudgetExceeded(plan.curvature, budget, "--bound " + options.bound,
                           "use fewer --bound-samples");
    }
    other = std::max(other, kernel.bytes);
  }
  if (options.checks == "on") {
    double parameters = 0;  // of a draw from the posterior
    for (const auto& shape : block_shapes(options, network))
      parameters += static_cast<double>(shape.parameters());
    other = std::max(
        other, pass_bytes(network, problem.train, batch, 2) +
                   kCheckDraws * parameters * static_cast<double>(problem.train.x.element_size()));
  }
  return with_peak(plan, base, other);
}

EvidencePlan plan_loaded(const EvidenceOptions& options, EvidenceProblem& problem,
                         const StoredCurvature& stored) {
  torch::NoGradGuard no_grad;
  EvidencePlan plan;
  int64_t bytes = 0;
  for (const auto& array : stored.whole) bytes += array.values.nbytes();
  for (const auto& block : stored.blocks)
    for (const auto& array : block) bytes += array.values.nbytes();
  plan.curvature.stages = {{"curvature", static_cast<double>(bytes), 0}};
  const auto base = resident_bytes() - bytes;  // it is there already
  return with_peak(plan, base, predictive_bytes(options, problem));
}

double predict_seconds(const EvidenceOptions& options, EvidenceProblem& problem) {
  const auto& train = problem.train;
  const auto count = std::min(kProbeSamples, train.count());
  const Samples few{train.x.narrow(0, 0, count), train.y.narrow(0, 0, count), 0};
  const auto probe = curvature_options(options, Stream(0), false);
  const auto likelihood = make_likelihood(options.likelihood, options.noise);
  fit_curvature(*problem.network, *likelihood, few, probe);  // warm
  const auto fit = fit_curvature(*problem.network, *likelihood, few, probe);
  if (options.structure == "lowrank") {
    const auto low = fit_problem(options, *problem.network, *likelihood, few, Stream(0), true);
    return low.seconds_pass * static_cast<double>(train.count()) / static_cast<double>(count);
  }
  double seconds =
      fit.seconds_pass * static_cast<double>(train.count()) / static_cast<double>(count);
  if (options.structure != "diag") {
    using Clock = std::chrono::steady_clock;
    constexpr int64_t kSize = 256;
    const auto start = Clock::now();
    const auto matrix = torch::eye(kSize, train.x.options().dtype(torch::kFloat64)) + 0.01;
    std::get<0>(at::linalg_eigh(matrix, "L")).sum().item<double>();  // waits for a GPU
    const auto cubed = std::chrono::duration<double>(Clock::now() - start).count() /
                       static_cast<double>(kSize * kSize * kSize);
    double flops = 0, parameters = 0, blocks = 0;
    for (const auto& shape : block_shapes(options, *problem.network)) {
      const auto o = static_cast<double>(shape.o), j = static_cast<double>(shape.j);
      flops += static_cast<double>(shape.q) * (o * o * o + j * j * j);
      parameters += static_cast<double>(shape.parameters());
      blocks += std::pow(static_cast<double>(shape.parameters()), 3);
    }
    const bool is_kron = options.structure == "kron" || options.structure == "ekfac";
    seconds += cubed * (is_kron                        ? flops
                        : options.structure == "block" ? blocks
                                                       : parameters * parameters * parameters);
  }
  return seconds * static_cast<double>(1 + options.polish);
}

}  // namespace evariste
