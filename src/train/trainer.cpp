#include "train/trainer.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"
#include "data/transform.h"
#include "nn/averaged.h"

namespace evariste {
namespace {

constexpr int64_t kMaxRestarts = 5;

Fisher fisher_named(const std::string& name) {
  if (name == "exact") return Fisher::kExact;
  if (name == "mc") return Fisher::kMonteCarlo;
  if (name == "empirical") return Fisher::kEmpirical;
  return Fisher::kSketch;
}

/// [n] int64: a permutation of 0 ... n-1.
Tensor permutation(int64_t n, const Stream& stream) {
  auto order = torch::arange(n);
  auto* p = order.data_ptr<int64_t>();
  Draws draws(stream);
  for (int64_t i = n - 1; i > 0; --i) std::swap(p[i], p[draws.below(static_cast<uint64_t>(i + 1))]);
  return order;
}

/// As the network sees them in training: without a view, and without a graph to the ranges.
Samples seen(Samples samples) {
  if (!samples.view) return samples;
  torch::NoGradGuard no_grad;
  samples.x = samples.inputs(0, samples.count());
  samples.view = {};
  return samples;
}

/// What the trainer sees the samples by: their places in the set.
Samples indexed(Samples samples) {
  if (!samples.index.defined()) samples.index = torch::arange(samples.count(), samples.x.device());
  return samples;
}

std::shared_ptr<Network> averaged(std::shared_ptr<Network> network, bool over_copies) {
  return over_copies ? std::make_shared<AveragedNetwork>(*network) : network;
}

/// The evidence that Kronecker factors give before their traces, or eigenvalues, are corrected.
double plain_log_evidence(const Fit& fit, const Likelihood& likelihood, const Priors& priors) {
  const auto& kron = static_cast<const KronCurvature&>(*fit.curvature);
  auto factors = kron.factors();
  for (auto& factor : factors) {
    factor.correction = 1;
    factor.spectrum = Tensor();
  }
  auto plain = fit;
  plain.curvature = std::make_shared<KronCurvature>(kron.blocks(), std::move(factors),
                                                    kron.trace_ratios(), kron.samples());
  return evaluate_evidence(plain, likelihood, priors).log_evidence;
}

}  // namespace

Metrics plug_in_metrics(const Network& network, const Likelihood& likelihood, const Samples& data,
                        int64_t batch) {
  torch::NoGradGuard no_grad;
  std::vector<Tensor> outputs;
  for (int64_t begin = 0; begin < data.count(); begin += batch)
    outputs.push_back(network.forward(data.inputs(begin, std::min(batch, data.count() - begin))));
  const auto prediction = likelihood.predict(data.gather(torch::cat(outputs)));
  const auto y = data.gather(data.y);
  if (likelihood.name() == "classification") return classification_metrics(prediction, y);
  if (likelihood.name() == "bernoulli") return bernoulli_metrics(prediction, y);
  const auto variance = torch::full_like(prediction, 1.0 / likelihood.curvature_scale());
  return regression_metrics(prediction, variance, y);
}

Trainer::Trainer(std::shared_ptr<Network> network, std::shared_ptr<Likelihood> likelihood,
                 Samples train, Samples test, TrainConfig config, PriorUpdateConfig prior_config,
                 const toml::table& prior, const Stream& stream, Log& log,
                 const Processes* processes, std::shared_ptr<const AffineAugmentation> augmentation)
    : augmentation_(std::move(augmentation)),
      network_(averaged(std::move(network), augmentation_ != nullptr)),
      likelihood_(std::move(likelihood)),
      train_(indexed(std::move(train))),
      test_(indexed(std::move(test))),
      config_(std::move(config)),
      prior_config_(std::move(prior_config)),
      stream_(stream),
      log_(log),
      processes_(processes),
      blocks_(named_blocks(*network_)),
      layers_(pathway_layers(*network_)),
      priors_(make_priors(*network_, prior_config_, prior, train_.count())),
      hyper_(*network_, augmentation_.get(), config_.hyper) {
  expect_valid(config_);
  expect_valid(prior_config_);
  likelihood_->check_labels(train_.y, network_->outputs());
  likelihood_->check_labels(test_.y, network_->outputs());
  network_->eval();
  expect_trainable(*network_, *likelihood_, config_, train_.count());
  if (processes_) expect_shareable(config_, train_.count(), test_.count(), processes_->size());
  measure_losses();
  if (config_.optimiser == "kfac") {
    kfac_ = std::make_unique<KfacStep>(blocks_, config_.kfac);
    prior_factor_ = prior_config_.ramp;
  } else {
    for (const auto* block : blocks_)
      first_moments_.push_back(torch::zeros_like(block->weight()).detach());
    if (config_.optimiser == "adam")
      for (const auto& moment : first_moments_) second_moments_.push_back(moment.clone());
  }
  start_ = state();
}

/// Both depend on the noise of a regression.
void Trainer::measure_losses() {
  torch::NoGradGuard no_grad;
  const auto f = network_->forward(network_->zeros(1));
  best_loss_ = -likelihood_->normaliser(f).sum().item<double>();
  label_entropy_ = -likelihood_->baseline(train_.y, network_->outputs());
}

double Trainer::noise() const {
  const auto* gaussian = dynamic_cast<const Gaussian*>(likelihood_.get());
  return gaussian ? gaussian->noise() : std::numeric_limits<double>::quiet_NaN();
}

std::vector<std::string> Trainer::block_names() const {
  std::vector<std::string> names;
  for (const auto* block : blocks_) names.push_back(block->name);
  return names;
}

bool Trainer::is_kfac_epoch() const { return kfac_ && epoch_ >= config_.burn_in; }

bool Trainer::wants_refresh() const {
  const auto since = epoch_ - config_.burn_in;
  return since >= 0 && (since % config_.refresh.every == 0 || (kfac_ && !curvature_));
}

double Trainer::cosine_rate(double from, double to, int64_t step, int64_t steps) const {
  const double t = static_cast<double>(step) / static_cast<double>(std::max<int64_t>(steps, 1));
  return rate_factor_ * (to + 0.5 * (from - to) * (1 + std::cos(std::numbers::pi * t)));
}

double Trainer::kfac_rate(int64_t step) const {
  const auto epochs = config_.epochs - config_.burn_in;
  return cosine_rate(config_.kfac.lr, 0, step, epochs * (train_.count() / config_.batch));
}

std::vector<double> Trainer::pulls() const {
  torch::NoGradGuard no_grad;
  std::vector<double> out;
  for (size_t m = 0; m < blocks_.size(); ++m) {
    out.push_back(priors_[m].precision(seen_by_prior(*blocks_[m])).item<double>());
  }
  return out;
}

CurvatureOptions refresh_options(const TrainConfig& config) {
  const auto& refresh = config.refresh;
  CurvatureOptions options;
  options.structure = refresh.structure == "ekfac" ? Structure::kEkfac : Structure::kKron;
  options.fisher = fisher_named(refresh.fisher);
  options.mc_samples = refresh.draws;
  options.correction = refresh.correction == "trace" ? Correction::kTrace : Correction::kNone;
  options.batch = config.evaluation_batch;
  return options;
}

CurvatureOptions Trainer::refresh_options() const {
  auto options = evariste::refresh_options(config_);
  options.stream = stream_.split("fisher").split(static_cast<uint64_t>(epoch_));
  options.eigen_type = train_.x.scalar_type();
  return options;
}

Samples Trainer::share(const Samples& whole, const Stream& copies) const {
  auto part = processes_ ? share_of(whole, *processes_) : whole;
  if (augmentation_) part.view = augmentation_->view(copies);
  return part;
}

Samples Trainer::first_of(const Samples& data, int64_t count) const {
  count = std::min(count, data.count());
  auto part = data;
  part.x = data.x.narrow(0, 0, count);
  part.y = data.y.narrow(0, 0, count);
  part.index = data.index.narrow(0, 0, count);
  return share(part, stream_.split("test copies"));
}

Samples Trainer::minibatch(const Tensor& order, int64_t step) const {
  const auto rows = order.narrow(0, step * config_.batch, config_.batch).to(train_.x.device());
  const auto epoch = static_cast<uint64_t>(epoch_);
  auto batch = share(train_.select(rows), stream_.split("copies").split(epoch));
  if (config_.flip_crop)
    batch.view = [stream = stream_.split("flip_crop").split(epoch)](const Tensor& x,
                                                                    const Tensor& index) {
      return augmented(x.to(torch::kCPU, torch::kFloat32), index.cpu(), stream).to(x.options());
    };
  return batch;
}

Samples Trainer::refresh_samples(int64_t count, const Stream& stream) const {
  const auto copies = stream.split("copies");
  if (count <= 0 || count >= train_.count()) return share(train_, copies);
  const auto rows = permutation(train_.count(), stream).narrow(0, 0, count).to(train_.x.device());
  auto part = train_.select(rows);
  part.total = train_.count();
  return share(part, copies);
}

/// The evidence may move what it moves: the fit has begun, and is not about to end.
bool Trainer::moves_priors() const {
  const bool fitted = !kfac_ || full_epochs_ > prior_config_.hold;
  return fitted && epoch_ < config_.epochs - prior_config_.settle;
}

double Trainer::hyper_rate() const {
  const double t = static_cast<double>(epoch_) / static_cast<double>(config_.epochs);
  const auto& h = config_.hyper;
  return rate_factor_ * (h.lr_end + 0.5 * (h.lr - h.lr_end) * (1 + std::cos(std::numbers::pi * t)));
}

/// No further in one refresh than a prior goes: prior.trust bounds a change of log 1/sigma^2 too.
/// Factored curvature may count more effective parameters than there are targets; the evidence then
/// grows with the noise.
void Trainer::learn_noise(const Fit& fit, double effective_dimension) {
  auto* gaussian = dynamic_cast<Gaussian*>(likelihood_.get());
  if (!gaussian || !config_.noise.learn) return;
  const double now = gaussian->noise(), bound = std::exp(0.5 * prior_config_.trust);
  const auto targets = static_cast<double>(fit.curvature->samples() * network_->outputs());
  const double next = effective_dimension < targets
                          ? noise_step(*gaussian, fit, network_->outputs(), effective_dimension)
                          : now * bound;
  gaussian->set_noise(std::clamp(next, now / bound, now * bound));
  curvature_->set_scale(gaussian->curvature_scale());
  measure_losses();
}

void Trainer::learn_by_evidence() {
  const auto stream = stream_.split("hyper").split(static_cast<uint64_t>(epoch_));
  for (int64_t step = 0; step < config_.hyper.steps; ++step) {
    const auto of_step = stream.split(static_cast<uint64_t>(step));
    hyper_.climb_evidence(*likelihood_, priors_, refresh_samples(config_.hyper.samples, of_step),
                          refresh_options(), hyper_rate());
  }
}

void Trainer::learn_by_loss(const Samples& batch) {
  if (hyper_.learns_by_loss()) hyper_.descend_loss(*likelihood_, batch, hyper_rate());
}

void Trainer::agree() {
  // Processors of other makes may round otherwise. A state is all that the next epoch depends on.
  if (!processes_) return;
  const auto mine = state();
  std::vector<Tensor> tensors;
  for (const auto& [name, tensor] : mine) tensors.push_back(tensor);
  evariste::agree(*processes_, tensors);
  set_state(mine);
}

void Trainer::keep_good_state(double log_likelihood) {
  // A state well below the best one so far is not worth going back to.
  constexpr double kWorse = 1.5, kSlack = 0.2;
  if (good_.empty() ||
      log_likelihood > std::min(kWorse * best_log_likelihood_ - 0.5 * kSlack, -kSlack)) {
    good_.clear();  // a state holds the good one besides itself: never one inside the other
    good_ = state();
    start_.clear();
  }
  best_log_likelihood_ = std::max(best_log_likelihood_, log_likelihood);
}

void Trainer::refresh(EpochRecord& record) {
  const auto epoch = static_cast<uint64_t>(epoch_);
  const auto stream = stream_.split("refresh").split(epoch);
  const auto data = refresh_samples(config_.refresh.samples, stream);
  const auto all = share(train_, stream.split("copies"));  // those of a sample are the same in both
  auto options = refresh_options();
  const std::string update = moves_priors() ? prior_config_.update : "none";
  const bool checks = refreshes_ % config_.refresh.checks_every == 0;
  options.bases = kfac_ != nullptr || checks || update == "profile";
  const auto fit = fit_curvature(*network_, *likelihood_, data, options);
  curvature_ = fit.curvature;
  record.evidence = evaluate_evidence(fit, *likelihood_, priors_);
  keep_good_state(fit.log_likelihood / static_cast<double>(train_.count()));
  keep_best(record.evidence->log_evidence);
  Gradient gradient;
  const bool profile = update == "profile";
  const bool decrement = profile || (update == "newton" && options.bases);
  if (checks || decrement)
    gradient = log_likelihood_gradient(*network_, *likelihood_, all, curvature_->blocks(),
                                       config_.evaluation_batch);
  if (checks) {
    const auto part =
        refresh_samples(config_.refresh.check_samples, stream_.split("check").split(epoch));
    record.checks = check_evidence(*network_, *likelihood_, all, gradient, part, fit, priors_, 1.0,
                                   stream_.split("posterior").split(epoch),
                                   config_.evaluation_batch, config_.refresh.check_draws);
    far_from_mode_ = record.checks->newton_decrement > Believable().decrement;
  } else if (decrement) {
    far_from_mode_ =
        newton_decrement(gradient, *likelihood_, fit, priors_, 1.0) > Believable().decrement;
  }
  ++refreshes_;
  if (profile || update == "newton") {
    NewtonOptions newton;
    if (profile) newton.gradient = &gradient.blocks;
    newton.trust_region = prior_config_.trust;
    newton.far_from_mode = far_from_mode_;
    fit_priors_newton(priors_, *curvature_, newton);
  } else if (update == "adam") {
    adam_prior_.step(priors_, *curvature_);
  }
  // Not only once the fit has begun: where a network cannot fit, its noise has to say so.
  if (prior_config_.update != "none" && epoch_ < config_.epochs - prior_config_.settle)
    learn_noise(fit, record.evidence->effective_dimension());
  if (hyper_.learns_by_evidence() && moves_priors()) learn_by_evidence();
}

double Trainer::kfac_epoch(const Tensor& order) {
  auto precisions = pulls();
  for (auto& p : precisions) p *= prior_factor_;
  kfac_->enter(static_cast<const KronCurvature&>(*curvature_), precisions);
  const auto per_epoch = train_.count() / config_.batch;
  const auto first = (epoch_ - config_.burn_in) * per_epoch;
  const auto averaged_from =
      per_epoch - static_cast<int64_t>(config_.kfac.average * static_cast<double>(per_epoch));
  double sum = 0;
  for (int64_t i = 0; i < per_epoch; ++i) {
    const auto batch = minibatch(order, i);
    learn_by_loss(batch);
    const auto part = seen(batch);
    const auto loss = [&](bool with_gradient) {
      Tape tape;
      const auto f = network_->forward(part.x, with_gradient ? &tape : nullptr);
      if (with_gradient) {
        network_->backward(
            likelihood_->score(f, part.y).unsqueeze(0), tape,
            [&](const Block& block, const Tensor& input, const Tensor& g) {
              kfac_->gradient(block, input, g[0]);
            },
            false);
        part.sum_in_place(kfac_->gradients());
      }
      return part.sum(-likelihood_->log_density(f, part.y).sum().item<double>());
    };
    const double lr = kfac_rate(first + i);
    const double before = kfac_->step(
        loss, lr, static_cast<double>(train_.count()) / static_cast<double>(config_.batch),
        i >= averaged_from);
    if (!std::isfinite(before)) {
      kfac_->leave();
      return before;
    }
    sum += before;
  }
  kfac_->leave();
  return sum / static_cast<double>(per_epoch * config_.batch);
}

double Trainer::first_order_epoch(const Tensor& order) {
  constexpr double kMomentum = 0.9, kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;
  torch::NoGradGuard no_grad;
  const bool burn_in = kfac_ != nullptr;
  const bool adam = config_.optimiser == "adam";
  // Gradients of a regression grow as 1/sigma^2: a step is one down the squared error.
  const double unit = adam ? 1.0 : 1 / likelihood_->curvature_scale();
  const auto precisions = pulls();
  const auto per_epoch = train_.count() / config_.batch;
  const auto n = static_cast<double>(train_.count());
  if (first_moments_.empty())
    for (const auto* block : blocks_)
      first_moments_.push_back(torch::zeros_like(block->weight()).detach());
  std::map<const Block*, size_t> index;
  for (size_t m = 0; m < blocks_.size(); ++m) index[blocks_[m]] = m;
  std::vector<Tensor> gradients(blocks_.size());
  double sum = 0;
  for (int64_t i = 0; i < per_epoch; ++i) {
    const auto batch = minibatch(order, i);
    learn_by_loss(batch);
    const auto part = seen(batch);
    const auto step = epoch_ * per_epoch + i;
    const double lr =
        unit * (burn_in
                    ? cosine_rate(config_.burn_in_lr, 0, step, config_.burn_in * per_epoch)
                    : cosine_rate(config_.lr, config_.lr_end, step, config_.epochs * per_epoch));
    Tape tape;
    const auto f = network_->forward(part.x, &tape);
    const double loss = part.sum(-likelihood_->log_density(f, part.y).sum().item<double>());
    if (!std::isfinite(loss)) return loss;
    sum += loss;
    // The whole backward pass sees the weights of the forward pass: steps come after it.
    network_->backward(
        likelihood_->score(f, part.y).unsqueeze(0) / static_cast<double>(-config_.batch), tape,
        [&](const Block& block, const Tensor& input, const Tensor& g) {
          gradients[index.at(&block)] = block.from_matrix(block.gradient(input, g[0]));
        },
        false);
    part.sum(gradients);
    for (size_t m = 0; m < blocks_.size(); ++m) {
      auto weight = blocks_[m]->weight();
      auto& gradient = gradients[m];
      const double pull = precisions[m] / n;
      if (adam) {
        gradient = gradient.add(weight, pull);
        first_moments_[m].mul_(kBeta1).add_(gradient, 1 - kBeta1);
        second_moments_[m].mul_(kBeta2).addcmul_(gradient, gradient, 1 - kBeta2);
        const double t = static_cast<double>(step + 1);
        const auto v = (second_moments_[m] / (1 - std::pow(kBeta2, t))).sqrt_().add_(kEpsilon);
        weight.addcdiv_(first_moments_[m], v, -lr / (1 - std::pow(kBeta1, t)));
      } else {
        // The prior outside the momentum buffer, implicitly: explicit steps are unstable for
        // large precisions. 1/(1 - momentum) gives the fixed point of the whole prior.
        first_moments_[m].mul_(kMomentum).add_(gradient);
        const double acting = burn_in ? config_.burn_in_decay : 1 / (1 - kMomentum);
        weight.add_(first_moments_[m], -lr).div_(1 + lr * acting * pull);
      }
    }
  }
  return sum / static_cast<double>(per_epoch * config_.batch);
}

double Trainer::minibatches(EpochRecord& record) {
  const auto order =
      permutation(train_.count(), stream_.split("shuffle").split(static_cast<uint64_t>(epoch_)));
  const bool kfac = is_kfac_epoch();
  const auto per_epoch = train_.count() / config_.batch;
  if (kfac) {
    record.learning_rate = kfac_rate((epoch_ - config_.burn_in) * per_epoch);
  } else if (kfac_) {
    record.learning_rate = cosine_rate(config_.burn_in_lr, 0, epoch_, config_.burn_in);
  } else {
    record.learning_rate = cosine_rate(config_.lr, config_.lr_end, epoch_, config_.epochs);
  }
  record.prior_factor = kfac ? prior_factor_ : 1.0;
  const double loss = kfac ? kfac_epoch(order) : first_order_epoch(order);
  if (kfac) record.damping = kfac_->damping();
  return loss;
}

bool Trainer::recover(double loss) {
  // Twice the loss of chance, once the fit has begun, is divergence that has not reached NaN yet.
  const bool diverged =
      !std::isfinite(loss) || (is_kfac_epoch() && epoch_ > config_.burn_in + 2 &&
                               loss - best_loss_ > 2 * (label_entropy_ - best_loss_));
  if (!diverged) return false;
  const bool in_kfac = is_kfac_epoch();
  if (++restarts_ > kMaxRestarts)
    throw NumericalError(fmt::format(
        "epoch {}: {} and {} restarts from the last good state did not help; lower {}", epoch_ + 1,
        failure_.empty() ? fmt::format("the training loss is {}", loss) : failure_, kMaxRestarts,
        in_kfac ? "train.kfac.lr or raise train.kfac.damping"
        : kfac_ ? "train.burn_in_lr"
                : "train.lr"));
  const auto restarts = restarts_;
  const auto rate = rate_factor_ * 0.5;
  const auto failed = epoch_;
  const bool from_start = good_.empty();
  const auto good = from_start ? start_ : good_;
  set_state(good);
  if (!from_start) good_ = good;
  restarts_ = restarts;
  rate_factor_ = rate;
  if (in_kfac) kfac_->raise_damping(4 * std::pow(2.0, static_cast<double>(restarts)));
  if (kfac_) kfac_->forget_momentum();
  log_.line(fmt::format("epoch {}: training loss {:.3g}; back to epoch {} with half the step size",
                        failed + 1, loss, epoch_));
  return true;
}

EpochRecord Trainer::run_epoch() {
  EpochRecord record;
  for (;;) {
    record = EpochRecord();
    failure_.clear();
    double loss = std::numeric_limits<double>::quiet_NaN();
    try {
      if (is_kfac_epoch() && epoch_ == config_.burn_in) {
        kfac_->forget_momentum();
        first_moments_.clear();
      }
      if (wants_refresh()) refresh(record);
      loss = minibatches(record);
    } catch (const NumericalError& error) {
      if (kfac_) kfac_->leave();
      failure_ = error.what();
      log_.line(failure_);
    }
    if (recover(loss)) continue;
    record.train_loss = loss;
    break;
  }
  if (is_kfac_epoch()) {
    if (prior_factor_ >= 1) ++full_epochs_;
    if (prior_factor_ < 1 &&
        record.train_loss - best_loss_ < prior_config_.fitted * (label_entropy_ - best_loss_))
      prior_factor_ = std::min(1.0, prior_factor_ * 10);
  }
  ++epoch_;
  // Too long a step of SGD says nothing of K-FAC's.
  if (kfac_ && epoch_ == config_.burn_in) rate_factor_ = 1, restarts_ = 0;
  record.epoch = epoch_;
  agree();
  evaluate(record);
  return record;
}

void Trainer::evaluate(EpochRecord& record) {
  const auto metrics = plug_in_metrics(
      *network_, *likelihood_, first_of(test_, config_.test_samples), config_.evaluation_batch);
  record.test_accuracy = metrics.accuracy;
  record.test_rmse = metrics.rmse;
  record.test_nll = metrics.nll;
  const auto on_train = plug_in_metrics(
      *network_, *likelihood_, first_of(train_, config_.test_samples), config_.evaluation_batch);
  record.train_accuracy = on_train.accuracy, record.train_rmse = on_train.rmse;
  record.shares_variance =
      variance_shares(*network_, layers_, first_of(test_, 500), config_.evaluation_batch);
  if (record.evidence) record.shares_effective = effective_shares(*record.evidence, layers_);
  record.symmetry = hyper_.values();
  record.noise = noise();
}

/// What a refresh finds, before its own update, is what its evidence is of.
void Trainer::keep_best(double log_evidence) {
  if (config_.keep != "best" || !moves_priors() || log_evidence <= best_evidence_) return;
  best_evidence_ = log_evidence;
  best_ = learnt();
}

Outcome Trainer::outcome() {
  auto options = refresh_options();
  options.fisher = fisher_named(config_.refresh.final_fisher);
  options.mc_samples = config_.refresh.final_draws;
  options.eigen_type = torch::kFloat64;
  const auto data = refresh_samples(config_.refresh.final_samples, stream_.split("final"));
  auto final_evidence = [&, options]() mutable {
    options.bases = false;
    return evaluate_evidence(fit_curvature(*network_, *likelihood_, data, options), *likelihood_,
                             priors_)
        .log_evidence;
  };
  if (!best_.empty()) {
    const auto last = learnt();
    const double of_last = final_evidence();
    set_learnt(best_);
    if (!(final_evidence() > of_last)) set_learnt(last);
    best_.clear();
  }
  Outcome out;
  const auto fit = fit_curvature(*network_, *likelihood_, data, options);
  out.evidence = evaluate_evidence(fit, *likelihood_, priors_);
  out.plain_log_evidence = plain_log_evidence(fit, *likelihood_, priors_);
  const auto train = share(train_, stream_.split("final").split("copies"));
  const auto gradient = log_likelihood_gradient(*network_, *likelihood_, train,
                                                fit.curvature->blocks(), config_.evaluation_batch);
  out.checks = check_evidence(*network_, *likelihood_, train, gradient, data, fit, priors_, 1.0,
                              stream_.split("posterior"), config_.evaluation_batch);
  out.test = plug_in_metrics(*network_, *likelihood_, first_of(test_, test_.count()),
                             config_.evaluation_batch);
  out.shares_variance =
      variance_shares(*network_, layers_, first_of(test_, 2000), config_.evaluation_batch);
  out.shares_effective = effective_shares(out.evidence, layers_);
  out.symmetry = hyper_.values();
  return out;
}

}  // namespace evariste
