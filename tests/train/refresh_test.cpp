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
