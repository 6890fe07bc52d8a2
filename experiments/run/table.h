// The tables the experiment prints: one per task, and the summary over seeds.
#pragma once

#include "experiments/run/result.h"

namespace evariste {

/// Results of one run (task and seed), by member.
using Run = std::map<std::string, Result>;

/// `title`: that of the task. Per layer: log precision, effective dimension and variance share of
/// each pathway beside the share of the MAP control; then evidence with checks, accuracy and NLL of
/// every member.
std::string run_table(const std::string& title, const Run& run);

/// Mean +- standard deviation over seeds, with their number, as Markdown.
std::string summary_table(const std::string& title, const std::vector<Run>& runs);

/// Names of the trainings in the order of the tables.
std::vector<std::string> member_order(const std::vector<Run>& runs);
/// What the tables call them.
std::string member_title(const std::vector<Run>& runs, const std::string& member);
/// "92.78%", or "RMSE 0.0123" of a regression.
std::string quality_text(const Result& result);
/// "conv", or the number of the pathway where its type is not known.
std::string pathway_name(const Result& result, size_t pathway);

/// One line per number of run_table, for `/table` of the run file and for --json.
struct TableRow {
  std::string name;
  double mean = 0, std = 0;  ///< std is NaN for one seed
  int64_t seeds = 0;
};
std::vector<TableRow> table_rows(const std::vector<Run>& runs);

}  // namespace evariste
