// evidence: Laplace evidence, prior fit and predictive of any saved network.
#include "experiments/evidence/report.h"
#include "experiments/evidence/stored.h"
#include "experiments/prepare.h"

using namespace evariste;

namespace {

/// The files that a run leaves, looked at before it starts.
struct Outputs {
  std::filesystem::path save, samples, predictive;
};

Outputs outputs_of(const EvidenceRequest& request) {
  const auto& o = request.options;
  if (!o.save.empty()) expect_hdf5("--save");
  const auto path = [&](std::string_view key, const std::string& file) {
    return file.empty() ? std::filesystem::path() : output_path(request, key, file);
  };
  return {path("save", o.save), path("samples_out", o.samples_out),
          path("predictive_out", o.predictive_out)};
}

int run(int argc, char** argv) {
  auto request = parse_evidence_request(argc, argv);
  const auto& [line, options, given] = request;
  const auto device = prepare_torch(line);
  const auto outputs = outputs_of(request);
  const bool loads = !options.load.empty();
  const auto stored = loads ? read_stored(request) : StoredRun();
  const auto processes = line.dry_run ? nullptr : join_processes(60, device);
  const bool is_first = !processes || processes->rank() == 0;  // the one that speaks
  auto problem = load_problem(options, device);
  if (!options.equivariance.empty()) {
    if (!is_first) return 0;
    const auto x = problem.train.x.narrow(0, 0, std::min(options.batch, problem.train.count()));
    if (x.dim() != 4 && x.dim() != 5)
      throw UsageError(
          fmt::format("--equivariance: expected images [N, C, S, S] or volumes in {}, found {}",
                      options.data, shape_text(x.sizes())));
    const auto group = make_group(options.equivariance, static_cast<int>(x.dim()) - 2);
    const auto errors = equivariance_errors(*problem.network, load_layer_fields(options.network),
                                            FieldType::trivial(group, x.size(1)), x,
                                            elements_to_test(*group, options.rotations));
    fmt::print("{}\n", line.json ? equivariance_json(group->name(), errors)
                                 : equivariance_table(group->name(), errors));
    return 0;
  }
  if (processes && !loads) problem.train = share_of(problem.train, *processes);
  if (options.entry == "on") {
    const auto found = measure_entry(options, problem);
    if (is_first) fmt::print("{}\n", line.json ? entry_json(found) : entry_table(found));
    return 0;
  }
  auto posterior = loads ? restore_stored(stored, options, problem) : Posterior();
  auto plan = loads ? plan_loaded(options, problem, stored.posterior.curvature)
                    : plan_memory(options, problem);
  if (line.dry_run) {
    if (launched_rank() != 0) return 0;
    if (!loads) plan.seconds = predict_seconds(options, problem);
    fmt::print("{}\n", line.json ? plan_json(options, plan) : plan_text(options, plan));
    return 0;
  }
  Log log({.quiet = line.quiet || !is_first});
  const Stream root(static_cast<uint64_t>(line.seed.value_or(0)));
  const auto result = loads ? measure_loaded(options, problem, std::move(posterior), stored.checks,
                                             given.count("prior_precision") > 0, root)
                            : measure_evidence(options, problem, root, log);
  if (!is_first) return 0;
  if (!outputs.save.empty()) save_result(outputs.save, request, problem, result);
  write_samples(outputs.samples, outputs.predictive, request, result, root);
  fmt::print("{}\n", line.json ? evidence_json(options, result, plan)
                               : evidence_table(options, result, plan));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return run_program([&] { return run(argc, argv); });
}
