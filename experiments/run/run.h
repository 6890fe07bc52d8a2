// One run of the experiment: one task, one seed, the evidence training and its controls.
#pragma once

#include <filesystem>

#include "experiments/run/table.h"
#include "experiments/run/tasks.h"

namespace evariste {

/// Throws UsageError where `folder` holds a run that run_task would refuse to touch.
void expect_free(const RunConfig& config, const std::string& task, int64_t seed, bool with_controls,
                 const std::filesystem::path& folder, const CommandLine& command_line);

/// Runs, or resumes, or only reads what is finished. Leaves run.h5, state.pt, run.log, config.toml
/// in `folder`. `with_controls`: the seeds beyond control_seeds have none. Of several `processes`
/// (null for one) the first alone has the folder, to read and to write; a signal to one ends all
/// after the same epoch.
Run run_task(const RunConfig& config, const std::string& task, int64_t seed, bool with_controls,
             const RawImages& images, const std::filesystem::path& folder,
             const CommandLine& command_line, torch::Device device,
             const Processes* processes = nullptr);

/// Folder of a run below `--out`: "digit-quick-seed1".
std::string run_name(const std::string& task, const std::string& preset, int64_t seed);

}  // namespace evariste
