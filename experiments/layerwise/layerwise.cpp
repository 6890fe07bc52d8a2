// layerwise: how much symmetry each layer should have, learned from data.
//
// The same images and the same network, fully connected + convolutional in every layer; in one task
// the label ignores the position, in the other it needs it. The Laplace evidence prunes what is not
// needed (van der Ouderaa, Immer, van der Wilk, "Learning Layer-wise Equivariances Automatically
// using Gradients", NeurIPS 2023, section 6.1).
#include <torch/torch.h>

#include <nlohmann/json.hpp>

#include <cstdio>
#include <cstdlib>

#include "core/error.h"
#include "io/atomic_file.h"
#include "io/interrupt.h"
#include "io/log.h"
#include "layerwise/findings.h"
#include "layerwise/report.h"
#include "layerwise/run.h"

using namespace evariste;

namespace {

constexpr const char* kDescription =
    "Layer-wise equivariance by Laplace evidence on digit- and quadrant-MNIST: the same images, "
    "the "
    "same network with a convolutional and a fully connected pathway in every layer. Controls: map "
    "(the matched prior held fixed), conv and fc (one pathway only), unit (prior precision 1 at "
    "the "
    "start), map-unit (that held fixed), sgd (no K-FAC steps).";

void print_plan(const LayerwiseConfig& config, const toml::table& table) {
  std::fputs(to_text(table).c_str(), stdout);
  const auto member = make_member(config, "evidence");
  const auto network = build_network(member.network, "[network]", task_classes(config.tasks[0]));
  int64_t parameters = 0;
  for (const auto& p : network->parameters()) parameters += p.numel();
  // Weights, momentum, gradient, curvature, pull, average, last good state; bases and factors.
  int64_t squares = 0;
  for (const auto* block : named_blocks(*network)) {
    const auto shape = block->value().sizes().vec();
    squares += shape[0] * (shape[1] * shape[1] + shape[2] * shape[2]);
  }
  const double bytes = 40.0 * static_cast<double>(parameters) +
                       24.0 * static_cast<double>(squares) + 2e8 +
                       8192.0 * static_cast<double>(config.data.train + config.data.test);
  const auto trainings =
      static_cast<double>(config.tasks.size()) *
      (static_cast<double>(config.seeds) +
       static_cast<double>(config.control_seeds) * static_cast<double>(config.controls.size()));
  // A step costs about 16 flops per parameter and image (forward, backward, gradient, in
  // eigenbases), decompositions 18 n^3; 100 GFLOP/s on two cores.
  double cubes = 0;
  for (const auto* block : named_blocks(*network)) {
    const auto shape = block->value().sizes().vec();
    cubes +=
        std::pow(static_cast<double>(shape[1]), 3) + std::pow(static_cast<double>(shape[2]), 3);
  }
  const double epoch =
      (16.0 * static_cast<double>(parameters) * static_cast<double>(config.data.train) +
       18.0 * cubes) /
      1e11;
  std::fprintf(stdout, "# %lld parameters; predicted memory %.2f GB, time %.0f min on two cores\n",
               static_cast<long long>(parameters), bytes / 1e9,
               trainings * static_cast<double>(config.train.epochs) * epoch / 60 + 0.1);
}

int layerwise(int argc, char** argv) {
  auto cli = parse_command_line(argc, argv, "layerwise", kDescription);
  if (cli.device != "cpu")
    throw UsageError(fmt::format("--device {}: layerwise runs on cpu", cli.device));
  const auto source = std::filesystem::path(EVARISTE_SOURCE_DIR);
  if (cli.config.empty()) cli.config = source / "experiments/layerwise/layerwise.toml";
  const auto table = resolve_config(cli.config, cli.preset, cli.set);
  auto config = from_toml<LayerwiseConfig>(table);
  if (cli.seed) config.seed = *cli.seed;
  expect_valid(config);
  if (cli.threads > 0) at::set_num_threads(cli.threads);
  cli.threads = at::get_num_threads();
  if (cli.deterministic) at::globalContext().setDeterministicAlgorithms(true, false);
  at::globalContext().setFlushDenormal(true);
  if (cli.dry_run) {
    print_plan(config, to_toml(config));
    return 0;
  }
  const auto out = cli.out.empty() ? source / "results/layerwise" : cli.out;
  const InterruptGuard guard;
  const auto digits = load_digits(config, cli.data_root);
  const auto pathways = pathway_types(config.network);

  std::string text, summary;
  Runs all;
  nlohmann::json json;
  std::vector<std::filesystem::path> folders;
  for (const auto& task : config.tasks) {
    std::vector<Run> runs;
    for (int64_t s = 0; s < config.seeds; ++s) {
      const auto seed = config.seed + s;
      const auto folder = out / run_name(task, cli.preset, seed);
      runs.push_back(run_task(config, task, seed, s < config.control_seeds, digits, folder, cli));
      folders.push_back(folder);
    }
    text += (config.seeds == 1 ? run_table(task, runs[0], pathways)
                               : summary_table(task, runs, pathways)) +
            "\n";
    summary += summary_table(task, runs, pathways) + "\n";
    all[task] = runs;
    for (const auto& row : table_rows(runs, pathways))
      json[task][row.name] = {{"mean", row.mean}, {"std", row.std}, {"seeds", row.seeds}};
  }
  if (config.seeds > 1) summary += findings(all, pathways, config.seed);
  write_atomically(out / fmt::format("summary-{}.md", cli.preset), summary);
  const auto report = config.report ? make_report(out, folders) : std::string();
  if (cli.json) {
    std::fprintf(stdout, "%s\n", json.dump().c_str());
  } else {
    std::fputs(text.c_str(), stdout);
  }
  auto* say = cli.json ? stderr : stdout;
  for (const auto& folder : folders)
    std::fprintf(say, "run file   %s\n", (folder / "run.h5").string().c_str());
  std::fprintf(say, "summary    %s\n",
               (out / fmt::format("summary-{}.md", cli.preset)).string().c_str());
  if (!report.empty()) std::fprintf(say, "%s\n", report.c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return run_program([&] { return layerwise(argc, argv); });
}
