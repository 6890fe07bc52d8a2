#include "experiments/run/run.h"

#include <ATen/Version.h>
#include <torch/version.h>

#include <chrono>
#include <fstream>

#include "core/error.h"
#include "experiments/run/record.h"
#include "experiments/run/table.h"
#include "io/atomic_file.h"
#include "io/interrupt.h"
#include "io/run_record.h"

namespace evariste {
namespace {

namespace fs = std::filesystem;
constexpr const char* kMapShares = "map_shares";
constexpr const char* kHash = "config_hash";

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Keys of the trainer within the state of a run.
State with_prefix(const State& state, const std::string& prefix) {
  State out;
  for (const auto& [name, tensor] : state) out[prefix + name] = tensor;
  return out;
}

State without_prefix(const State& state, const std::string& prefix) {
  State out;
  for (const auto& [name, tensor] : state)
    if (name.starts_with(prefix)) out[name.substr(prefix.size())] = tensor;
  return out;
}

/// [epoch][layer][pathway] as it lies in the state, epoch e at row e - 1.
std::vector<std::vector<double>> shares_at(const State& state, int64_t epoch) {
  const auto found = state.find(kMapShares);
  if (found == state.end() || epoch > found->second.size(0)) return {};
  const auto row = found->second[epoch - 1];
  std::vector<std::vector<double>> out;
  for (int64_t l = 0; l < row.size(0); ++l) {
    auto& shares = out.emplace_back();
    for (int64_t k = 0; k < row.size(1); ++k) shares.push_back(row[l][k].item<double>());
  }
  return out;
}

void add_map_shares(State& state, const EpochRecord& record) {
  std::vector<Tensor> layers;
  for (const auto& layer : record.shares_variance)
    layers.push_back(torch::tensor(layer, torch::kFloat64));
  if (layers.empty()) return;
  const auto row = torch::stack(layers).unsqueeze(0);
  const auto found = state.find(kMapShares);
  state[kMapShares] =
      found == state.end() ? row : torch::cat({found->second.narrow(0, 0, record.epoch - 1), row});
}

/// The record of this run alone: --config it to repeat.
RunConfig own_config(const RunConfig& config, const std::string& task, int64_t seed,
                     bool with_controls) {
  auto own = config;
  own.seed = seed;
  own.seeds = 1;
  own.control_seeds = 1;
  own.tasks = {task};
  if (!with_controls) own.controls.clear();
  return own;
}

std::string hash_of(const RunConfig& own) {
  auto table = to_toml(own);
  table.erase("report");  // changes no number
  return config_hash(table);
}

/// The state to resume from, empty where there is none; refuses what must not be overwritten.
State expect_resumable(const fs::path& folder, const CommandLine& cli, const std::string& hash) {
  if (cli.force) return {};
  const auto state_file = folder / "state.pt", record_file = folder / "run.h5";
  if (!fs::exists(state_file)) {
    if (!fs::exists(record_file)) return {};
    if (!cli.resume)
      throw UsageError(
          fmt::format("{}: a run lies there; --force overwrites it, --resume goes on "
                      "with it, --out takes another folder",
                      folder.string()));
    if (is_finished_run(record_file))
      throw UsageError(fmt::format(
          "{}: its run.h5 is finished, but state.pt, which holds the table, is missing; "
          "--force starts afresh, --out takes another folder",
          folder.string()));
    return {};  // killed in its first epoch
  }
  auto state = load_state(state_file);
  const bool finished = state.count("finished") > 0;
  if (!cli.resume)
    throw UsageError(
        fmt::format("{}: {} run lies there; --force overwrites it, {}, --out takes "
                    "another folder",
                    folder.string(), finished ? "a finished" : "an unfinished",
                    finished ? "--resume prints its table" : "--resume goes on with it"));
  const auto found = state.find(kHash);
  if (found != state.end() && tensor_text(found->second) != hash)
    throw UsageError(
        fmt::format("{}: its state belongs to another configuration (config.toml there "
                    "says which); use --force or another --out",
                    folder.string()));
  return state;
}

void clear_folder(const fs::path& folder) {
  for (const char* name : {"state.pt", "run.h5", "run.log", "config.toml", "figure.png",
                           "report.html", "train.safetensors", "test.safetensors"}) {
    std::error_code failure;
    fs::remove(folder / name, failure);
    if (failure)
      throw IoError(
          fmt::format("{}: cannot be removed: {}", (folder / name).string(), failure.message()));
  }
}

/// The files of a run. Of several processes the first has them: to the others, which compute the
/// same, writing is nothing.
class RunFolder {
 public:
  RunFolder(fs::path path, bool is_ours) : path_(std::move(path)), is_ours_(is_ours) {
    if (!is_ours_) return;
    std::error_code failure;
    fs::create_directories(path_, failure);
    if (failure)
      throw IoError(fmt::format("{}: cannot be made: {}", path_.string(), failure.message()));
  }
  /// Empty for the others, as Log and RunFile know it.
  fs::path file(const std::string& name) const { return is_ours_ ? path_ / name : fs::path(); }
  void write(const std::string& name, const std::string& text) const {
    if (is_ours_) write_atomically(path_ / name, text);
  }
  void write(const std::string& name, const Network& network) const {
    if (is_ours_) save_weights(network, path_ / name);
  }
  void write(const State& state) const {
    if (is_ours_) save_state(path_ / "state.pt", state);
  }

 private:
  fs::path path_;
  bool is_ours_;
};

/// What the first process finds, for all; refuses processes that were told something else.
State share_start(const Processes* processes, const State& found, const std::string& hash) {
  if (!processes) return found;
  const auto state = broadcast(*processes, found);
  if (tensor_text(state.at(kHash)) != hash)
    throw UsageError(fmt::format("process {} of {} was given another configuration than process 0",
                                 processes->rank(), processes->size()));
  return state;
}

/// Null where the member has none.
std::shared_ptr<const AffineAugmentation> augmentation_of(const Member& member) {
  if (member.augmentation.copies == 0) return nullptr;
  return std::make_shared<AffineAugmentation>(to_options(member.augmentation));
}

/// On the way out with an error, which is the one to tell where the disk is full too.
void stop(RunFile& run, std::string_view status) {
  try {
    run.stop(status);
  } catch (const Error&) {
  }
}

/// Of this process or of another one.
int signal_to_any(const Processes* processes) {
  const int mine = interrupt_signal();
  return processes ? static_cast<int>(greatest_over(*processes, mine)) : mine;
}

}  // namespace

std::string run_name(const std::string& task, const std::string& preset, int64_t seed) {
  return fmt::format("{}-{}-seed{}", task, preset, seed);
}

void expect_free(const RunConfig& config, const std::string& task, int64_t seed, bool with_controls,
                 const fs::path& folder, const CommandLine& cli) {
  expect_resumable(folder, cli, hash_of(own_config(config, task, seed, with_controls)));
}

Run run_task(const RunConfig& config, const std::string& task, int64_t seed, bool with_controls,
             const RawImages& images, const fs::path& path, const CommandLine& cli,
             torch::Device device, const Processes* processes) {
  const bool is_first = !processes || processes->rank() == 0;
  const auto own = own_config(config, task, seed, with_controls);
  const auto table = to_toml(own);
  const auto hash = hash_of(own);
  const auto record_file = path / "run.h5";
  State state;
  if (is_first) {
    state = expect_resumable(path, cli, hash);
    if (cli.force) clear_folder(path);
    if (!state.count("finished") && !fs::exists(record_file)) state.clear();
    state[kHash] = text_tensor(hash);
  }
  const bool resumed = state.size() > 1;
  state = share_start(processes, state, hash);
  if (state.count("finished")) return get_results(state);

  const auto input = input_of(config);
  const auto train = task_images(config, task, images.train, input);
  const auto test = task_images(config, task, images.test, input);

  const RunFolder folder(path, is_first);
  folder.write("config.toml", to_text(table));
  Log log({.file = folder.file("run.log"), .quiet = cli.quiet || !is_first});
  auto provenance = collect_provenance(table, cli, {{"torch", TORCH_VERSION}}, images.train.sha256);
  provenance.seed = seed;
  provenance.processes = processes ? processes->size() : 1;
  auto run = resumed ? RunFile::resume(record_file, provenance)
                     : RunFile(folder.file("run.h5"), provenance);

  const auto there = [&](const Dataset& set) {
    Samples samples{set.x.to(device), set.y.to(device)};
    samples.index = sample_index(set).to(device);
    return samples;
  };
  const auto train_samples = there(train), test_samples = there(test);

  // MAP first: its shares stand beside those of the evidence run, epoch by epoch.
  std::vector<std::string> members;
  for (const auto& control : own.controls)
    if (control == "map") members.push_back(control);
  members.emplace_back("evidence");
  for (const auto& control : own.controls)
    if (control != "map") members.push_back(control);

  auto results = get_results(state);
  const Stream root(static_cast<uint64_t>(seed));
  try {
    for (const auto& name : members) {
      if (results.count(name)) continue;
      const auto member = make_member(own, name);
      const auto file = with_classes(member.network, train.classes);
      auto network = build_network(file, "[network]");
      const auto suffix = name == "evidence" ? std::string() : fmt::format("-{}", name);
      folder.write(fmt::format("network{}.toml", suffix), to_text(file));
      initialise(*network, root.split("init"), member.prior.lean);
      network->to(device);
      const auto likelihood = task_likelihood(task, member.train);
      Trainer trainer(network, likelihood, train_samples, test_samples, member.train, member.prior,
                      member.prior_keys, root.split("train"), log, processes,
                      augmentation_of(member));
      double seconds = 0;
      const auto prefix = "member." + name + ".";
      if (const auto saved = without_prefix(state, prefix); !saved.empty()) {
        trainer.set_state(saved);
        seconds = saved.at("seconds").item<double>();
        log.line(fmt::format("{} {}: resumed after epoch {}", task, name, trainer.epoch()));
      }
      Recorder recorder(run, name == "evidence" ? "" : fmt::format("controls/{}/", name), trainer,
                        pathway_types(member.network), trainer.epoch());
      while (!trainer.is_done()) {
        const auto start = std::chrono::steady_clock::now();
        const auto record = trainer.run_epoch();
        seconds += seconds_since(start);
        recorder.append(record, seconds,
                        name == "evidence" ? shares_at(state, record.epoch)
                                           : std::vector<std::vector<double>>());
        if (name == "map") add_map_shares(state, record);
        std::erase_if(state, [&](const auto& item) { return item.first.starts_with(prefix); });
        auto saved = trainer.state();
        saved["seconds"] = torch::tensor(seconds, torch::kFloat64);
        state.merge(with_prefix(saved, prefix));
        run.flush();
        folder.write(state);
        log.progress(
            fmt::format("{} seed {} {}", task, seed, name), record.epoch, member.train.epochs,
            fmt::format("loss {:.3f}, test {}{}", record.train_loss,
                        likelihood->is_regression()
                            ? fmt::format("RMSE {:.4f}", record.test_rmse)
                            : fmt::format("{:.1f}%", 100 * record.test_accuracy),
                        record.evidence
                            ? fmt::format(", log q/N {:.3f}", record.evidence->log_evidence /
                                                                  static_cast<double>(train.size()))
                            : ""));
        if (const int signal = signal_to_any(processes); signal != 0) {
          run.stop("interrupted");
          throw Interrupted(signal);
        }
      }
      const auto start = std::chrono::steady_clock::now();
      const auto outcome = trainer.outcome();
      seconds += seconds_since(start);
      results[name] = make_result(member, outcome, trainer, seconds);
      std::erase_if(state, [&](const auto& item) { return item.first.starts_with(prefix); });
      put_result(state, results[name]);
      folder.write(fmt::format("weights{}.safetensors", suffix), *network);
      folder.write(state);
      log.line(fmt::format(
          "{} seed {} {}: test {}, NLL {:.3f}, log q/N {:.3f}, decrement {:.3f}, gap "
          "{:+.2f}, {}, {:.0f} s",
          task, seed, name, quality_text(results[name]), results[name].nll,
          results[name].per_datum(results[name].log_evidence), results[name].decrement,
          results[name].gap, results[name].believable ? "believable" : "NOT believable", seconds));
    }

    const auto rows = table_rows({results});
    std::vector<std::string> names;
    std::vector<double> means, spreads;
    std::vector<int64_t> counts;
    for (const auto& row : rows) {
      names.push_back(row.name);
      means.push_back(row.mean);
      spreads.push_back(row.std);
      counts.push_back(row.seeds);
    }
    const auto row = run.labels("table/row", names, "what");
    run.array("table/mean", {row}, means, "mean over seeds");
    run.array("table/std", {row}, spreads, "standard deviation over seeds");
    run.array("table/seeds", {row}, counts, "number of seeds");
    run.finish({{"task", task}});
    state["finished"] = torch::ones({});
    folder.write(state);
  } catch (const Interrupted&) {
    throw;
  } catch (const ProcessLost& lost) {
    stop(run, "interrupted");
    throw ProcessLost(fmt::format("{}; --resume goes on after the last epoch", lost.what()));
  } catch (...) {
    stop(run, "failed");
    throw;
  }
  return results;
}

}  // namespace evariste
