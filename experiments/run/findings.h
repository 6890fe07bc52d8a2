// What the issue of the experiment claims, tested on the results of each seed: the lists that stand
// below the summary's tables.
#pragma once

#include "experiments/run/table.h"

namespace evariste {

/// Runs of every seed, by task.
using Runs = std::map<std::string, std::vector<Run>>;

/// `set`: the data set. Markdown: one line per training (seed, network) with all its numbers, then
/// each claim with the seeds it holds for.
std::string findings(const Runs& runs, const std::string& set, int64_t first_seed);

/// Spearman's rank correlation, ties at their mean rank; NaN for fewer than three pairs or a
/// constant side.
double rank_correlation(const std::vector<double>& a, const std::vector<double>& b);

}  // namespace evariste
