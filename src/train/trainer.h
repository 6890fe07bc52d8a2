// Training with the evidence: steps on the weights, and every few epochs a curvature refresh that
// moves the priors (online Laplace, Immer et al. 2021), the same factors taking the steps.
//
// An epoch is the unit: it depends only on the state at its start and on streams named by its
// number, so a run that is killed and resumed goes on bit for bit.
//
// Several processes train one network together. Each has all data and does its share of every
// minibatch, refresh and metric; what is summed over samples is summed over all of them, and each
// takes the same step. They end every epoch with the state of the first, bit for bit.
#pragma once

#include <toml++/toml.h>

#include <memory>
#include <optional>

#include "io/log.h"
#include "laplace/predictive.h"
#include "laplace/prior_fit.h"
#include "train/checkpoint.h"
#include "train/hyper.h"
#include "train/kfac.h"
#include "train/shares.h"

namespace evariste {

struct EpochRecord {
  int64_t epoch = 0;  ///< 1 for the first
  double train_loss = 0, test_nll = 0;
  double train_accuracy = 0, test_accuracy = 0;  ///< NaN for regression
  double train_rmse = 0, test_rmse = 0;          ///< NaN but for regression
  double learning_rate = 0, damping = 0, prior_factor = 1;
  std::optional<Evidence> evidence;  ///< in epochs with a refresh
  std::optional<Checks> checks;      ///< in some of them
  std::vector<std::vector<double>> shares_variance, shares_effective;
  std::vector<double> symmetry;  ///< bandwidths and augmentation ranges, as Trainer names them
  double noise = 0;              ///< standard deviation, NaN but for regression
};

/// Throws UsageError where a training of `network` on so many images cannot work: naming the key,
/// what it needs and what it has.
void expect_trainable(Network& network, const Likelihood& likelihood, const TrainConfig& config,
                      int64_t images);

/// Throws UsageError, naming the key, where what is shared has fewer images than `processes`.
void expect_shareable(const TrainConfig& config, int64_t train_images, int64_t test_images,
                      int64_t processes);

/// What a finished training is judged by.
struct Outcome {
  Evidence evidence;
  double plain_log_evidence = 0;  ///< without the trace correction, at the same precisions
  Checks checks;
  Metrics test;
  std::vector<std::vector<double>> shares_variance, shares_effective;
  std::vector<double> symmetry;
};

/// The curvature that a training's refreshes fit, but for its random stream.
CurvatureOptions refresh_options(const TrainConfig& config);

class Trainer {
 public:
  /// `prior` is the table [prior]: `type` and the keys of that type. Data stay on one device; all
  /// of them in each of several `processes`, which outlive the trainer. With an `augmentation` the
  /// network's outputs are means over its copies of an image, in training as in tests. The noise of
  /// a Gaussian likelihood is moved as train.noise says, from what the likelihood has.
  Trainer(std::shared_ptr<Network> network, std::shared_ptr<Likelihood> likelihood, Samples train,
          Samples test, TrainConfig config, PriorUpdateConfig prior_config,
          const toml::table& prior, const Stream& stream, Log& log,
          const Processes* processes = nullptr,
          std::shared_ptr<const AffineAugmentation> augmentation = nullptr);

  int64_t epoch() const { return epoch_; }
  bool is_done() const { return epoch_ >= config_.epochs; }
  /// Throws NumericalError after five restarts from the last good state.
  EpochRecord run_epoch();
  /// Evidence with its checks, and the whole test set, at the present weights; with train.keep best
  /// at those of the best refresh, where their evidence is higher, which are the present ones then.
  Outcome outcome();

  Network& network() { return *network_; }
  const Priors& priors() const { return priors_; }
  const Likelihood& likelihood() const { return *likelihood_; }
  /// Standard deviation of a Gaussian likelihood, NaN of others.
  double noise() const;
  const std::vector<PathwayLayer>& layers() const { return layers_; }
  std::vector<std::string> block_names() const;
  /// Of what is learnt besides weights and priors.
  std::vector<std::string> symmetry_names() const { return hyper_.names(); }

  State state() const;
  void set_state(const State& state);

 private:
  bool is_kfac_epoch() const;
  bool wants_refresh() const;
  CurvatureOptions refresh_options() const;
  Samples share(const Samples& whole, const Stream& copies) const;
  Samples first_of(const Samples& data, int64_t count) const;
  Samples minibatch(const Tensor& order, int64_t step) const;
  Samples refresh_samples(int64_t count, const Stream& stream) const;
  void refresh(EpochRecord& record);
  bool moves_priors() const;
  void learn_noise(const Fit& fit, double effective_dimension);
  void measure_losses();
  void learn_by_evidence();
  void learn_by_loss(const Samples& batch);
  double hyper_rate() const;
  State learnt() const;
  void set_learnt(const State& state);
  void keep_best(double log_evidence);
  double minibatches(EpochRecord& record);
  double kfac_epoch(const Tensor& order);
  double first_order_epoch(const Tensor& order);
  void evaluate(EpochRecord& record);
  std::vector<double> pulls() const;
  double cosine_rate(double from, double to, int64_t step, int64_t steps) const;
  double kfac_rate(int64_t step) const;
  bool recover(double loss);
  void keep_good_state(double log_likelihood);
  void agree();

  std::shared_ptr<const AffineAugmentation> augmentation_;
  std::shared_ptr<Network> network_;
  std::shared_ptr<Likelihood> likelihood_;
  Samples train_, test_;
  TrainConfig config_;
  PriorUpdateConfig prior_config_;
  Stream stream_;
  Log& log_;
  const Processes* processes_;
  std::vector<Block*> blocks_;
  std::vector<PathwayLayer> layers_;
  Priors priors_;
  AdamPriorFit adam_prior_;
  HyperLearner hyper_;
  std::unique_ptr<KfacStep> kfac_;
  std::vector<Tensor> first_moments_, second_moments_;  // of sgd and adam
  std::shared_ptr<Curvature> curvature_;                // of the last refresh
  double label_entropy_ = 0;  // loss of a network that ignores its input, per datum
  double best_loss_ = 0;      // that of one that knows every label

  int64_t epoch_ = 0, full_epochs_ = 0, restarts_ = 0, refreshes_ = 0;
  double prior_factor_ = 1, rate_factor_ = 1, best_log_likelihood_ = -1e300,
         best_evidence_ = -1e300;
  bool far_from_mode_ = false;
  std::string failure_;  // of the present epoch, where it said one
  State good_;           // to restart from after a NaN
  State start_;          // the same before there is one; not saved, a resumed run has it again
  State best_;           // weights, priors and symmetries of the highest evidence, where it is kept
};

/// Test or training metrics of the plug-in prediction, by chunks; over the shares of all processes.
Metrics plug_in_metrics(const Network& network, const Likelihood& likelihood, const Samples& data,
                        int64_t batch);

/// One prior per block (or one for all) as the table and the configuration say, for a training on
/// so many `images`.
Priors make_priors(Network& network, const PriorUpdateConfig& config, const toml::table& table,
                   int64_t images);

}  // namespace evariste
