// What one finished training leaves for the table, kept in state.pt with the rest.
#pragma once

#include <cmath>

#include "experiments/run/config.h"
#include "train/trainer.h"

namespace evariste {

struct BlockResult {
  std::string name;
  double parameters = 0, log_precision = 0, effective = 0, squared_norm = 0, trace_ratio = 0;
};

struct Result {
  std::string member, title;
  int64_t place = 0;  ///< of the member in the tables
  int64_t samples = 0;
  double plain_log_evidence = 0;  ///< without the trace correction, at the same precisions
  double log_evidence = 0, log_likelihood = 0, log_det_ratio = 0, scatter = 0;  ///< nats, sums
  double decrement = 0, gap = 0;
  bool alive = false, believable = false;
  double accuracy = 0, nll = 0, ece = 0;
  double rmse = std::nan(""), noise = std::nan("");  ///< of regression alone, without accuracy, ece
  double seconds = 0;
  std::vector<BlockResult> blocks;
  std::vector<std::string> layers;                    ///< names of the sums
  std::vector<std::string> pathways;                  ///< types of their pathways
  std::vector<std::vector<std::string>> path_blocks;  ///< [layer][pathway] weight name
  std::vector<std::vector<double>> shares_variance, shares_effective;
  std::vector<std::pair<std::string, double>> symmetry;  ///< learnt bandwidths and ranges

  bool is_regression() const { return std::isfinite(rmse); }
  double per_datum(double nats) const { return nats / static_cast<double>(samples); }
  const BlockResult* find(const std::string& name) const;
};

Result make_result(const Member& member, const Outcome& outcome, const Trainer& trainer,
                   double seconds);

void put_result(State& state, const Result& result);
/// The results a state holds, by member.
std::map<std::string, Result> get_results(const State& state);

}  // namespace evariste
