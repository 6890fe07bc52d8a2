// evidence: Laplace evidence, prior fit and predictive of any saved network.
#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include "experiments/evidence/report.h"
#include "experiments/evidence/save_posterior.h"

using namespace evariste;

namespace {

void prepare_torch(const CommandLine& line) {
  if (line.threads > 0) at::set_num_threads(line.threads);
  if (line.deterministic) at::globalContext().setDeterministicAlgorithms(true, false);
}

int run(int argc, char** argv) {
  const auto request = parse_evidence_request(argc, argv);
  const auto& [line, options] = request;
  prepare_torch(line);
  const auto save = options.save.empty() ? std::filesystem::path() : posterior_path(request);
  const auto processes = line.dry_run ? nullptr : join_processes();
  const bool is_first = !processes || processes->rank() == 0;  // the one that speaks
  auto problem = load_problem(options);
  if (processes) problem.train = share_of(problem.train, *processes);
  auto plan = plan_memory(options, problem);
  if (line.dry_run) {
    plan.seconds = predict_seconds(options, problem);
    fmt::print("{}\n", line.json ? plan_json(options, plan) : plan_text(options, plan));
    return 0;
  }
  Log log({.quiet = line.quiet || !is_first});
  const Stream root(static_cast<uint64_t>(line.seed.value_or(0)));
  const auto result = measure_evidence(options, problem, root, log);
  if (!is_first) return 0;
  if (!save.empty()) save_posterior(save, request, problem, result);
  fmt::print("{}\n", line.json ? evidence_json(options, problem, result, plan)
                               : evidence_table(options, problem, result, plan));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return run_program([&] { return run(argc, argv); });
}
