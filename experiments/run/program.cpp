#include "experiments/run/program.h"

#include <torch/utils.h>

#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdio>
#include <sstream>

#include "core/error.h"
#include "experiments/prepare.h"
#include "experiments/run/findings.h"
#include "experiments/run/need.h"
#include "experiments/run/prune.h"
#include "experiments/run/report.h"
#include "experiments/run/run.h"
#include "io/atomic_file.h"
#include "io/interrupt.h"
#include "io/log.h"

namespace evariste {
namespace {

constexpr const char* kControls =
    " Controls: map (the matched prior held fixed), conv and fc (one pathway only), unit (prior "
    "precision 1 at the start), map-unit (that held fixed), sgd (no K-FAC steps), and those of the "
    "configuration's own, [variant.NAME].";

void print_plan(const RunConfig& config, bool json) {
  const auto table = to_toml(config);
  const auto need = predict_need(config);
  if (json) {
    std::ostringstream text;
    text << toml::json_formatter(table);
    const nlohmann::json out = {{"config", nlohmann::json::parse(text.str())},
                                {"plan",
                                 {{"parameters", need.parameters},
                                  {"peak_bytes", need.bytes},
                                  {"seconds", need.seconds},
                                  {"h200_seconds", need.h200_seconds}}}};
    fmt::print("{}\n", out.dump());
    return;
  }
  fmt::print(
      "{}# {} parameters; predicted memory {:.2f} GB, time {:.0f} min on two cores, {:.0f} min on "
      "an "
      "H200 (at assumed rates, never measured)\n",
      to_text(table), need.parameters, need.bytes / 1e9, std::ceil(need.seconds / 60),
      std::ceil(need.h200_seconds / 60));
}

/// "reduced", or "reduced-digit-seeds4-5" for a part of what the preset has: the summary and the
/// figure of a part do not replace those of the whole.
std::string summary_name(const RunConfig& config, const CommandLine& cli) {
  const auto whole = read_run_config(resolve_config(cli.config, cli.preset, {}));
  std::string name = cli.preset;
  if (config.tasks != whole.tasks) name += fmt::format("-{}", fmt::join(config.tasks, "-"));
  if (config.seed == whole.seed && config.seeds == whole.seeds) return name;
  if (config.seeds == 1) return name + fmt::format("-seed{}", config.seed);
  return name + fmt::format("-seeds{}-{}", config.seed, config.seed + config.seeds - 1);
}

int run(const Experiment& experiment, int argc, char** argv) {
  const auto first = fmt::format("experiments/{}/{}.toml", experiment.name, experiment.first);
  bool prune = false, export_data = false;
  auto cli = parse_command_line(
      argc, argv, experiment.name, experiment.about + std::string(kControls), [&](CLI::App& app) {
        app.add_flag("--prune", prune,
                     "also write each network without the pathways it does not need");
        app.add_flag(
            "--export-data", export_data,
            "also write the images of each run as its networks see them, train.safetensors and "
            "test.safetensors, for evidence");
        app.footer(
            fmt::format(
                "Several processes train together where torchrun or srun starts them: torchrun "
                "--no-python --nproc-per-node 2 build/bin/{} ...\n\n"
                "Keys of the configuration, as --set KEY=VALUE, with the program's defaults; "
                "{} and its presets have their own:\n",
                experiment.name, first) +
            help_text<RunConfig>() + help_text<PriorUpdateConfig>("prior") + prior_help());
      });
  const auto source = std::filesystem::path(EVARISTE_SOURCE_DIR);
  if (cli.config.empty()) cli.config = source / first;
  const auto table = resolve_config(cli.config, cli.preset, cli.set);
  auto config = read_run_config(table);
  if (cli.seed) config.seed = *cli.seed;
  expect_valid(config);
  const auto device = prepare_torch(cli);
  cli.threads = at::get_num_threads();
  at::globalContext().setFlushDenormal(true);
  if (cli.dry_run) {
    if (launched_rank() == 0) print_plan(config, cli.json);
    return 0;
  }
  const auto out = cli.out.empty() ? source / "results" / cli.config.stem() : cli.out;
  const InterruptGuard guard;
  const auto processes = join_processes(60, device);
  const bool is_first = !processes || processes->rank() == 0;  // the one that reads, writes, speaks
  if (processes) {
    auto members = config.controls;
    members.emplace_back("evidence");
    for (const auto& name : members)
      expect_shareable(make_member(config, name).train, config.data.train, config.data.test,
                       processes->size());
  }
  const auto images = load_images(config, cli.data_root);

  std::string text, summary;
  Runs all;
  nlohmann::json json;
  std::vector<std::filesystem::path> folders;
  for (const auto& task : config.tasks)  // all of them before hours are spent on the first
    for (int64_t s = 0; s < config.seeds; ++s)
      if (is_first)
        expect_free(config, task, config.seed + s, s < config.control_seeds,
                    out / run_name(task, cli.preset, config.seed + s), cli);
  for (const auto& task : config.tasks) {
    std::vector<Run> runs;
    for (int64_t s = 0; s < config.seeds; ++s) {
      const auto seed = config.seed + s;
      const auto folder = out / run_name(task, cli.preset, seed);
      runs.push_back(run_task(config, task, seed, s < config.control_seeds, images, folder, cli,
                              device, processes.get()));
      folders.push_back(folder);
    }
    const auto title = task_title(task, config.data.set);
    text += (config.seeds == 1 ? run_table(title, runs[0]) : summary_table(title, runs)) + "\n";
    summary += summary_table(title, runs) + "\n";
    all[task] = runs;
    for (const auto& row : table_rows(runs))
      json[task][row.name] = {
          {"mean", row.mean}, {"std", row.std}, {"seeds", row.seeds}};  // NaN: null
  }
  if (!is_first) return 0;
  if (config.seeds > 1) summary += findings(all, config.data.set, config.seed);
  const auto name = summary_name(config, cli);
  const auto summary_file = out / fmt::format("summary-{}.md", name);
  write_atomically(summary_file, summary);
  const auto report =
      config.report
          ? make_report(cli.config.stem().string(), experiment.first,
                        name == cli.preset ? out : std::filesystem::path(), folders, cli.quiet)
          : std::string();
  throw_if_interrupted();
  std::vector<std::string> pruned;
  for (const auto& task : prune ? config.tasks : std::vector<std::string>())
    for (int64_t s = 0; s < config.seeds; ++s) {
      const auto folder = out / run_name(task, cli.preset, config.seed + s);
      const auto& evidence = all[task][static_cast<size_t>(s)].at("evidence");
      const auto test = task_images(config, task, images.test, input_of(config));
      const auto some = test.x.narrow(0, 0, std::min<int64_t>(500, test.size()));
      pruned.push_back(pruned_text(prune_run(folder, evidence, some), folder));
    }
  for (const auto& task : export_data ? config.tasks : std::vector<std::string>())
    for (int64_t s = 0; s < config.seeds; ++s)
      write_images(config, task, images, out / run_name(task, cli.preset, config.seed + s));
  if (cli.json) {
    std::fprintf(stdout, "%s\n", json.dump().c_str());
  } else {
    std::fputs(text.c_str(), stdout);
  }
  auto* say = cli.json ? stderr : stdout;
  for (const auto& folder : folders)
    std::fprintf(say, "run file   %s\n", (folder / "run.h5").string().c_str());
  std::fprintf(say, "summary    %s\n", summary_file.string().c_str());
  for (const auto& line : pruned) std::fprintf(say, "%s\n", line.c_str());
  if (!report.empty()) std::fprintf(say, "%s\n", report.c_str());
  return 0;
}

}  // namespace

int run_experiment(const Experiment& experiment, int argc, char** argv) {
  return run_program([&] { return run(experiment, argc, argv); });
}

}  // namespace evariste
