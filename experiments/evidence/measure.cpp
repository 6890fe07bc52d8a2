#include "experiments/evidence/measure.h"

#include "laplace/polish.h"
#include "laplace/prior_fit.h"

namespace evariste {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void polish_network(const EvidenceOptions& options, EvidenceProblem& problem, const Stream& root,
                    Log& log) {
  const auto curvature = curvature_options(options, root, true);
  const auto likelihood = make_likelihood(options.likelihood, options.noise);
  std::vector<std::shared_ptr<Block>> owned;
  const auto priors = make_priors(options, curvature_blocks(*problem.network, curvature, owned));
  const auto steps = polish(*problem.network, *likelihood, problem.train, priors,
                            options.temperature, curvature, options.polish);
  for (size_t i = 0; i < steps.size(); ++i)
    log.line(steps[i].length > 0
                 ? fmt::format("polish {}/{}: -log p(D, theta) {:.10g}, step length {}", i + 1,
                               options.polish, steps[i].objective, steps[i].length)
                 : fmt::format("polish {}/{}: no step lowers -log p(D, theta) = {:.10g}", i + 1,
                               options.polish, steps[i].objective));
}

/// --fit, --fit-on, --fit-noise and --fit-temperature, on the spectra of the posterior.
void fit_hyperparameters(const EvidenceOptions& options, EvidenceProblem& problem,
                         const Stream& root, EvidenceResult& result) {
  auto& posterior = result.posterior;
  posterior.set_scale();
  const auto outputs = problem.network->outputs();
  const bool noise = options.fit_noise == "on";
  const auto grid = [&] {
    return log_grid(options.grid_low, options.grid_high, options.grid_points);
  };
  if (options.fit_on == "validation") {
    const Validation validation{
        *problem.network,         *problem.validation, predictive_link(options),
        root.split("validation"), options.draws,       options.batch};
    if (options.fit == "grid") {
      result.tuning = grid_by_validation(posterior, grid(), validation);
    } else {
      DescentOptions descent;
      descent.steps = options.prior_steps;
      descent.noise = noise;
      descent.temperature = options.fit_temperature == "on";
      result.tuning = descend_validation(posterior, validation, outputs, descent);
    }
  } else if (options.fit == "grid") {
    result.tuning = grid_by_evidence(posterior, grid(), outputs, noise);
  } else if (noise) {
    fit_noise(dynamic_cast<Gaussian&>(*posterior.likelihood), posterior.priors, posterior.fit,
              outputs, posterior.temperature, options.fit == "newton");
  } else if (options.fit == "newton") {
    fit_priors_newton(posterior.priors, *posterior.fit.curvature);
  } else if (options.fit == "adam") {
    AdamPriorFit().step(posterior.priors, *posterior.fit.curvature, options.prior_steps);
  }
  if (noise && options.fisher == "empirical")  // its columns are those of the old noise
    posterior.fit = fit_problem(options, *problem.network, *posterior.likelihood, problem.train,
                                root, needs_bases(options));
}

/// tr(B (x) A) / tr F of each block, where the fit did not need the exact trace.
void measure_trace_ratios(EvidenceProblem& problem, const CurvatureOptions& options,
                          EvidenceResult& result) {
  const auto* kron = dynamic_cast<const KronCurvature*>(result.posterior.fit.curvature.get());
  if (!kron || options.correction != Correction::kNone) return;
  const auto exact =
      fisher_traces(*problem.network, *result.posterior.likelihood, problem.train, options);
  for (size_t m = 0; m < exact.size(); ++m) {
    const auto& factor = kron->factors()[m];
    if (exact[m] > 0)
      result.evidence.blocks[m].trace_ratio =
          (factor.a.traces() * factor.b.traces()).sum().item<double>() / exact[m];
  }
}

void predict_test(const EvidenceOptions& options, EvidenceProblem& problem, const Stream& root,
                  EvidenceResult& result) {
  const auto& posterior = result.posterior;
  const auto& likelihood = *posterior.likelihood;
  const auto &x = problem.test->x, &y = problem.test->y;
  result.outputs = output_distribution(*problem.network, x, *posterior.fit.curvature,
                                       posterior.priors, options.batch);
  const auto& outputs = result.outputs;
  if (likelihood.is_regression()) {
    const auto noise = torch::full_like(outputs.mean, 1 / likelihood.curvature_scale());
    const bool is_map = predictive_link(options) == Link::kMap;
    result.test = regression_metrics(
        outputs.mean, is_map ? noise : noise + outputs.covariance.diagonal(0, 1, 2), y);
    return;
  }
  const auto p = predict(outputs, likelihood, predictive_link(options), root.split("predictive"),
                         options.draws);
  result.test = likelihood.name() == "classification" ? classification_metrics(p, y)
                                                      : bernoulli_metrics(p, y);
}

/// Whether --fit and its companions leave the hyper-parameters as they were.
bool fits_nothing(const EvidenceOptions& options) {
  return options.fit == "none" && options.fit_noise == "off";
}

/// What follows the fit: hyper-parameters, evidence, predictions, and how long they took.
void measure_posterior(const EvidenceOptions& options, EvidenceProblem& problem, const Stream& root,
                       EvidenceResult& result) {
  auto start = Clock::now();
  fit_hyperparameters(options, problem, root, result);
  result.seconds.prior.push_back(fits_nothing(options) ? 0.0 : seconds_since(start));
  result.evidence = result.posterior.evidence();
  start = Clock::now();
  if (problem.test) predict_test(options, problem, root, result);
  result.seconds.predict.push_back(problem.test ? seconds_since(start) : 0.0);
}

}  // namespace

EvidenceResult measure_evidence(const EvidenceOptions& options, EvidenceProblem& problem,
                                const Stream& root, Log& log) {
  if (options.polish > 0) polish_network(options, problem, root, log);
  const bool checks = options.checks == "on";
  const bool bases = needs_bases(options);
  auto& network = *problem.network;
  EvidenceResult result;
  auto& posterior = result.posterior;
  for (int64_t r = 0; r < options.repeat; ++r) {
    posterior.likelihood = make_likelihood(options.likelihood, options.noise);
    posterior.temperature = options.temperature;
    auto& likelihood = *posterior.likelihood;
    posterior.fit = fit_problem(options, network, likelihood, problem.train, root, bases);
    result.seconds.fit.push_back(posterior.fit.seconds_pass);
    result.seconds.eigen.push_back(posterior.fit.seconds_eigen);
    posterior.priors = make_priors(options, posterior.fit.curvature->blocks());
    measure_posterior(options, problem, root, result);
    log.progress("evidence", r + 1, options.repeat,
                 fmt::format("log evidence {:.6g}", result.evidence.log_evidence));
  }
  if (checks) {
    measure_trace_ratios(problem, curvature_options(options, root, bases), result);
    result.checks = check_evidence(network, *posterior.likelihood, problem.train, posterior.fit,
                                   posterior.priors, posterior.temperature, root.split("checks"),
                                   options.batch);
  }
  if (options.bound != "none")
    result.bound = bound_evidence(network, *posterior.likelihood, problem.train, posterior.priors,
                                  bound_options(options, root));
  return result;
}

EvidenceResult measure_loaded(const EvidenceOptions& options, EvidenceProblem& problem,
                              Posterior posterior, const std::optional<Checks>& checks, bool given,
                              const Stream& root) {
  EvidenceResult result;
  result.posterior = std::move(posterior);
  result.seconds.fit.push_back(0.0);
  result.seconds.eigen.push_back(0.0);
  if (given)
    result.posterior.priors = make_priors(options, result.posterior.fit.curvature->blocks());
  measure_posterior(options, problem, root, result);
  if (!given && fits_nothing(options)) result.checks = checks;
  return result;
}

std::vector<EntryResult> measure_entry(const EvidenceOptions& options, EvidenceProblem& problem) {
  const auto relaxed = relax(*problem.network, static_cast<int>(options.entry_band));
  if (relaxed.empty())
    throw UsageError(fmt::format(
        "--entry: no layer of {} is a steerable convolution that is strictly equivariant",
        options.network));
  auto curvature = curvature_options(options, Stream(0), /*bases=*/true);
  for (const auto& [name, block] : relaxed) curvature.only.push_back(name);
  const auto likelihood = make_likelihood(options.likelihood, options.noise);
  const auto fit = fit_curvature(*problem.network, *likelihood, problem.train, curvature);
  const auto tests = entry_tests(*problem.network, *likelihood, problem.train, fit, options.batch);
  std::vector<EntryResult> out;
  for (size_t m = 0; m < tests.size(); ++m)
    out.push_back({relaxed.at(tests[m].name), fit.curvature->blocks()[m]->parameters(),
                   static_cast<double>(problem.train.everywhere()), tests[m]});
  return out;
}

}  // namespace evariste
