#include "experiments/run/record.h"

#include <cmath>

namespace evariste {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

}  // namespace

Recorder::Recorder(RunFile& run, const std::string& prefix, const Trainer& trainer,
                   const std::vector<std::string>& pathways, int64_t epochs_done)
    : run_(run) {
  const auto trace = prefix + "trace/", blocks = prefix + "blocks/", paths = prefix + "pathways/";
  trace_epoch_ = run.unlimited(trace + "epoch", "epoch");
  const auto add = [&](const std::string& name, const char* long_name, const char* units) {
    trace_.emplace_back(name, run.series(trace + name, {trace_epoch_}, long_name, units));
  };
  add("train_loss", "mean -log p over the epoch's steps", "nats");
  if (trainer.likelihood().is_regression()) {
    add("train_rmse", "root of the mean squared error on a part of the training set", "1");
    add("test_rmse", "root of the mean squared error on a part of the test set", "1");
    add("noise", "standard deviation of the targets about the outputs", "1");
  } else {
    add("train_accuracy", "accuracy on a part of the training set", "1");
    add("test_accuracy", "accuracy on a part of the test set", "1");
  }
  add("test_nll", "mean -log p on a part of the test set", "nats");
  add("log_evidence", "Laplace log evidence", "nats");
  add("log_likelihood", "sum of log p over the training set", "nats");
  add("log_det_ratio", "log|P| - log|P0|", "nats");
  add("scatter", "theta^T P0 theta", "nats");
  add("newton_decrement", "1/2 g^T P^-1 g per datum", "nats");
  add("linearised_gap", "sampled minus predicted log-likelihood per datum", "nats");
  add("believable", "1 where the checks pass", "1");
  add("learning_rate", "step size at the start of the epoch", "1");
  add("damping", "epsilon of the K-FAC step", "1");
  add("wall_seconds", "since the start of this training, resumed parts added", "s");

  block_epoch_ = run.unlimited(blocks + "epoch", "epoch");
  const auto names = trainer.block_names();
  blocks_ = names.size();
  const auto block = run.labels(blocks + "block", names, "parameter tensor");
  for (const auto& [name, long_name] :
       {std::pair("prior_precision", "precision of the prior"),
        std::pair("effective_dimension", "gamma, effective number of parameters"),
        std::pair("parameters", "number of parameters"),
        std::pair("squared_norm", "sum of squared weights"),
        std::pair("trace_ratio", "trace of KFAC before correction over the exact trace")})
    block_.emplace_back(name, run.series(blocks + name, {block_epoch_, block}, long_name, "1"));

  for (const auto& name : trainer.symmetry_names())
    symmetry_.push_back(
        run.series(blocks + name, {block_epoch_}, "learned symmetry parameter", "1"));

  layers_ = trainer.layers().size();
  for (const auto& layer : trainer.layers()) paths_ = std::max(paths_, layer.paths.size());
  if (layers_ > 0 && paths_ > 1) {
    std::vector<std::string> layer_names;
    for (const auto& layer : trainer.layers()) layer_names.push_back(layer.name);
    pathway_epoch_ = run.unlimited(paths + "epoch", "epoch");
    const auto layer = run.labels(paths + "layer", layer_names, "sum of pathways");
    const auto path = run.labels(paths + "pathway", pathways, "kind of pathway");
    for (const auto& [name, long_name] :
         {std::pair("share_effective", "share of the effective dimension per parameter"),
          std::pair("share_variance", "share of the output variance"),
          std::pair("share_variance_map", "the same where the matched prior is held fixed")})
      pathway_.emplace_back(
          name, run.series(paths + name, {pathway_epoch_, layer, path}, long_name, "1"));
    run.drop_after(pathway_epoch_, static_cast<double>(epochs_done));
  }
  run.drop_after(trace_epoch_, static_cast<double>(epochs_done));
  run.drop_after(block_epoch_, static_cast<double>(epochs_done));
}

void Recorder::append(const EpochRecord& r, double wall_seconds,
                      const std::vector<std::vector<double>>& map_shares) {
  const auto* e = r.evidence ? &*r.evidence : nullptr;
  const auto* c = r.checks ? &*r.checks : nullptr;
  const std::map<std::string, double> values = {
      {"train_loss", r.train_loss},
      {"train_accuracy", r.train_accuracy},
      {"test_accuracy", r.test_accuracy},
      {"train_rmse", r.train_rmse},
      {"test_rmse", r.test_rmse},
      {"noise", r.noise},
      {"test_nll", r.test_nll},
      {"log_evidence", e ? e->log_evidence : kNaN},
      {"log_likelihood", e ? e->log_likelihood : kNaN},
      {"log_det_ratio", e ? e->log_det_ratio : kNaN},
      {"scatter", e ? e->scatter : kNaN},
      {"newton_decrement", c ? c->newton_decrement : kNaN},
      {"linearised_gap", c ? c->linearised_gap : kNaN},
      {"believable", c ? (c->believable ? 1.0 : 0.0) : kNaN},
      {"learning_rate", r.learning_rate},
      {"damping", r.damping},
      {"wall_seconds", wall_seconds}};
  const auto epoch = static_cast<double>(r.epoch);
  // After a restart from an earlier state its epochs come once more.
  run_.drop_after(trace_epoch_, epoch - 1);
  run_.drop_after(block_epoch_, epoch - 1);
  if (!pathway_.empty()) run_.drop_after(pathway_epoch_, epoch - 1);
  std::vector<RunFile::Row> rows;
  for (const auto& [name, series] : trace_) rows.emplace_back(series, std::vector{values.at(name)});
  run_.append(trace_epoch_, epoch, rows);

  rows.clear();
  for (const auto& [name, series] : block_) {
    std::vector<double> row(blocks_, kNaN);
    for (size_t m = 0; e && m < blocks_; ++m) {
      const auto& b = e->blocks[m];
      row[m] = name == "prior_precision"       ? b.prior_precision
               : name == "effective_dimension" ? b.effective_dimension
               : name == "parameters"          ? static_cast<double>(b.parameters)
               : name == "squared_norm"        ? b.squared_norm
                                               : b.trace_ratio;
    }
    rows.emplace_back(series, std::move(row));
  }
  for (size_t i = 0; i < symmetry_.size(); ++i)
    rows.emplace_back(symmetry_[i], std::vector{r.symmetry[i]});
  run_.append(block_epoch_, epoch, rows);
  if (pathway_.empty()) return;

  const auto flat = [&](const std::vector<std::vector<double>>& shares) {
    std::vector<double> row(layers_ * paths_, kNaN);
    for (size_t l = 0; l < shares.size(); ++l)
      for (size_t k = 0; k < shares[l].size(); ++k) row[l * paths_ + k] = shares[l][k];
    return row;
  };
  rows.clear();
  rows.emplace_back(pathway_[0].second, flat(r.shares_effective));
  rows.emplace_back(pathway_[1].second, flat(r.shares_variance));
  rows.emplace_back(pathway_[2].second, flat(map_shares));
  run_.append(pathway_epoch_, epoch, rows);
}

}  // namespace evariste
