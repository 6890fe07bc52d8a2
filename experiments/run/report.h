// Figure and report of a finished experiment: the notebook, executed.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace evariste {

/// Runs notebooks/EXPERIMENT.ipynb, where there is none OTHERWISE.ipynb, on the run folders:
/// figure.png and report.html in each of them and the common ones in `out`, unless that is empty;
/// nothing where all of them are newer than their run files. Returns the lines to print. Where
/// Python or the notebook's packages are missing it says so and the run ends well without them.
/// Throws Interrupted where the notebook was.
std::string make_report(const std::string& experiment, const std::string& otherwise,
                        const std::filesystem::path& out,
                        const std::vector<std::filesystem::path>& folders, bool quiet);

}  // namespace evariste
