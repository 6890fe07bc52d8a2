// What a refresh and the final evidence look at.
#include "tests/catch.h"

#include "tests/train/small_training.h"

using namespace evariste;

TEST_CASE("every way to refresh trains and gives a finite evidence", "[train][refresh]") {
  SmallTraining small;
  for (const std::string fisher : {"sketch", "exact", "mc", "empirical"})
    for (const std::string correction : {"trace", "none", "ekfac"})
      for (const auto type : {torch::kFloat64, torch::kFloat32}) {
        CAPTURE(fisher, correction, type);
        small.train.refresh.fisher = fisher;
        small.train.refresh.structure = correction == "ekfac" ? "ekfac" : "kron";
        small.train.refresh.correction = correction == "none" ? "none" : "trace";
        small.type = type;
        const auto trainer = small.make();
        while (!trainer->is_done()) {
          const auto record = trainer->run_epoch();
          if (record.evidence) CHECK(std::isfinite(record.evidence->log_evidence));
        }
        CHECK(trainer->outcome().test.accuracy > 0.5);
      }
}

TEST_CASE("a refresh of a part counts as the whole", "[train][refresh]") {
  SmallTraining small;
  small.train.burn_in = 0;
  small.train.refresh.samples = 0;
  const auto whole = small.make()->run_epoch().evidence;
  small.train.refresh.samples = 40;
  const auto part = small.make()->run_epoch().evidence;
  REQUIRE((whole && part));
  CHECK(part->n == whole->n);
  CHECK(part->log_likelihood == Approx(whole->log_likelihood).epsilon(0.2));
  CHECK(part->log_likelihood != whole->log_likelihood);
  CHECK(part->effective_dimension() == Approx(whole->effective_dimension()).epsilon(0.2));
}

TEST_CASE("the final evidence of a part takes its decrement from all images", "[train][refresh]") {
  SmallTraining small;
  small.train.refresh.final_fisher = "exact";
  small.train.refresh.final_samples = 40;
  small.train.epochs = 40;  // near a mode the gradient of a part is mostly noise
  small.prior.update = "none";
  const auto trainer = small.make();
  while (!trainer->is_done()) trainer->run_epoch();
  const auto outcome = trainer->outcome();
  CurvatureOptions options;  // of a part that the trainer draws: any part gives about its factors
  const auto fit = fit_curvature(trainer->network(), Softmax(), small.data, options);
  const auto decrement = [&](const Samples& data) {
    const auto gradient =
        log_likelihood_gradient(trainer->network(), Softmax(), data, fit.curvature->blocks(), 30);
    return newton_decrement(gradient, Softmax(), fit, trainer->priors(), 1.0);
  };
  const double of_all = decrement(small.data);
  const double of_part =
      decrement({small.data.x.narrow(0, 0, 40), small.data.y.narrow(0, 0, 40), 60});
  CAPTURE(of_all, of_part);
  CHECK(outcome.checks.newton_decrement == Approx(of_all).epsilon(0.35));
  CHECK(std::abs(of_part - of_all) > 0.5 * of_all);  // the difference would be seen
}

TEST_CASE("the final evidence of a float32 network has float64 eigenvalues", "[train][refresh]") {
  SmallTraining small;
  small.type = torch::kFloat32;
  small.train.refresh.final_fisher = "exact";
  const auto trainer = small.make();
  while (!trainer->is_done()) trainer->run_epoch();
  const auto outcome = trainer->outcome();
  const auto fit =
      fit_curvature(trainer->network(), Softmax(),
                    {small.data.x.to(torch::kFloat32), small.data.y, 0}, CurvatureOptions());
  const auto evidence = evaluate_evidence(fit, Softmax(), trainer->priors());
  CHECK(outcome.evidence.log_evidence == Approx(evidence.log_evidence).epsilon(1e-12));
}

TEST_CASE("metrics do not depend on how a set is cut into batches", "[train][refresh]") {
  SmallTraining small;
  const auto trainer = small.make();
  trainer->run_epoch();
  const auto whole = plug_in_metrics(trainer->network(), *small.likelihood, small.test, 30);
  for (const int64_t batch : {1, 7, 29}) {
    const auto cut = plug_in_metrics(trainer->network(), *small.likelihood, small.test, batch);
    CHECK(cut.nll == Approx(whole.nll).epsilon(1e-12));
    CHECK(cut.accuracy == whole.accuracy);
  }
}

TEST_CASE("the final evidence has the precisions that the training ends with", "[train][refresh]") {
  SmallTraining small;
  small.prior.settle = 0;  // the last refresh moves them
  const auto trainer = small.make();
  EpochRecord last;
  while (!trainer->is_done()) last = trainer->run_epoch();
  const auto found = trainer->outcome().evidence;
  const auto expected = log_precisions(*trainer);
  bool moved = false;
  for (size_t m = 0; m < expected.size(); ++m) {
    CHECK(std::log(found.blocks[m].prior_precision) == Approx(expected[m]));
    moved =
        moved || std::abs(std::log(last.evidence->blocks[m].prior_precision) - expected[m]) > 0.01;
  }
  CHECK(moved);  // the record of the epoch has those it began with
}

TEST_CASE("flips and crops are of the steps alone", "[train][refresh]") {
  SmallTraining small;
  small.train.optimiser = "sgd";
  small.train.burn_in = 0;
  small.train.epochs = 2;
  const auto after = [&](bool flip_crop, double lr) {
    small.train.flip_crop = flip_crop;
    small.train.lr = lr;
    const auto trainer = small.make();
    const auto record = trainer->run_epoch();
    return std::pair(record, trainer->outcome());
  };
  const auto [record, outcome] = after(true, 1e-300);  // weights stay: all else is as without
  const auto [plain_record, plain_outcome] = after(false, 1e-300);
  CHECK(record.evidence->log_evidence == plain_record.evidence->log_evidence);
  CHECK(record.test_nll == plain_record.test_nll);
  CHECK(outcome.evidence.log_evidence == plain_outcome.evidence.log_evidence);
  CHECK(outcome.test.nll == plain_outcome.test.nll);
  CHECK(record.train_loss != plain_record.train_loss);
  CHECK(after(true, 0.05).second.test.nll != after(false, 0.05).second.test.nll);
}
