#include "experiments/run/need.h"

#include <algorithm>

#include "experiments/run/tasks.h"
#include "laplace/plan.h"
#include "train/trainer.h"

namespace evariste {
namespace {

struct Rates {
  double products, eigen;  // flops per second
};
constexpr Rates kTwoCores = {7e10, 2e10};  // as measured (bench/results/peers.md), small maps
constexpr Rates kH200 = {1e13, 5e11};      // assumed: a sixth of its float32 peak; nothing measured
constexpr double kStart = 10;              // seconds that every training takes besides

struct Work {
  double bytes = 0, products = 0, eigen = 0;
  int64_t parameters = 0;
  double seconds(const Rates& rates) const {
    return kStart + products / rates.products + eigen / rates.eigen;
  }
};

Work work_of(const RunConfig& config, const Member& member) {
  Work work;
  const auto& train = member.train;
  const auto& task = config.tasks[0];
  const auto network =
      build_network(member.network, "[network]", task_outputs(task, config.data.set));
  network->eval();
  for (const auto& p : network->parameters()) work.parameters += p.numel();

  auto shape = network->input();
  shape.insert(shape.begin(), train.evaluation_batch);
  const auto likelihood = task_likelihood(task, train);
  const auto n = static_cast<double>(train.evaluation_batch);
  const Samples images{torch::zeros({1}).expand(shape),
                       likelihood->is_regression()
                           ? torch::zeros({train.evaluation_batch, network->outputs()})
                           : torch::zeros({train.evaluation_batch}, torch::kInt64)};
  const auto plan = [&](const CurvatureOptions& options) {
    return plan_curvature(*network, *likelihood, images, options);
  };
  CurvatureOptions gradients;
  gradients.structure = Structure::kDiag;
  gradients.fisher = Fisher::kEmpirical;
  const auto step = plan(gradients).stages[0].flops / n;  // of an image
  auto options = refresh_options(train);
  const auto refresh = plan(options);
  options.fisher = Fisher::kExact;
  const auto fit = plan(options);

  double turned = 0, squares = 0, pixels = 1;  // a step's gradients into the eigenbases and back
  for (const auto* block : named_blocks(*network)) {
    const auto value = block->value();
    const auto q = static_cast<double>(value.size(0)), o = static_cast<double>(value.size(1)),
               j = static_cast<double>(value.size(2));
    turned += 4 * q * o * j * (o + j);
    squares += q * (o * o + j * j);
  }
  for (const auto side : network->input()) pixels *= static_cast<double>(side);
  // The program itself; weights, momentum, gradient, curvature, average, last good state; factors
  // and bases; images, in float32 and as they were read.
  work.bytes = 3.5e8 + 40.0 * static_cast<double>(work.parameters) + 24.0 * squares +
               8.0 * pixels * static_cast<double>(config.data.train + config.data.test) +
               fit.stages[0].bytes;

  const auto copies = static_cast<double>(std::max<int64_t>(1, member.augmentation.copies));
  const auto all = copies * static_cast<double>(config.data.train);
  const auto part = [&](int64_t samples) {
    return samples > 0 ? std::min(all, copies * static_cast<double>(samples)) : all;
  };
  const auto epochs = static_cast<double>(train.epochs);
  const auto refreshes = epochs / static_cast<double>(train.refresh.every);
  work.products = epochs * (all * step + all / copies / static_cast<double>(train.batch) * turned) +
                  refreshes * part(train.refresh.samples) * refresh.stages[0].flops / n +
                  part(train.refresh.final_samples) * fit.stages[0].flops / n;
  work.eigen = (refreshes + 1) * fit.stages[2].flops;
  if (copies > 1 && train.hyper.score == "evidence") {  // a fit and about as much again
    const auto steps = refreshes * static_cast<double>(train.hyper.steps);
    work.products += steps * 2 * part(train.hyper.samples) * fit.stages[0].flops / n;
    work.eigen += steps * fit.stages[2].flops;
  }
  return work;
}

}  // namespace

Need predict_need(const RunConfig& config) {
  torch::NoGradGuard no_grad;
  Need need;
  const auto add = [&](const std::string& name, int64_t seeds) {
    const auto work = work_of(config, make_member(config, name));
    if (name == "evidence") need.parameters = work.parameters;
    need.bytes = std::max(need.bytes, work.bytes);
    const auto trainings = static_cast<double>(seeds) * static_cast<double>(config.tasks.size());
    need.seconds += trainings * work.seconds(kTwoCores);
    need.h200_seconds += trainings * work.seconds(kH200);
  };
  add("evidence", config.seeds);
  for (const auto& name : config.controls) add(name, std::min(config.seeds, config.control_seeds));
  return need;
}

}  // namespace evariste
