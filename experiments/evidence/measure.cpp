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
  std::vector<std::shared_ptr<Block>> owned;
  const auto priors = make_priors(options, curvature_blocks(*problem.network, curvature, owned));
  const auto steps = polish(*problem.network, *problem.likelihood, problem.train, priors,
                            options.temperature, curvature, options.polish);
  for (size_t i = 0; i < steps.size(); ++i)
    log.line(steps[i].length > 0
                 ? fmt::format("polish {}/{}: -log p(D, theta) {:.10g}, step length {}", i + 1,
                               options.polish, steps[i].objective, steps[i].length)
                 : fmt::format("polish {}/{}: no step lowers -log p(D, theta) = {:.10g}", i + 1,
                               options.polish, steps[i].objective));
}

/// --fit and --fit-noise, on the spectra of `result.fit`.
void fit_hyperparameters(const EvidenceOptions& options, EvidenceProblem& problem,
                         const Stream& root, bool bases, EvidenceResult& result) {
  auto& fit = result.fit;
  fit.curvature->set_scale(problem.likelihood->curvature_scale() / options.temperature);
  if (options.fit_noise == "on") {
    auto& gaussian = dynamic_cast<Gaussian&>(*problem.likelihood);
    fit_noise(gaussian, result.priors, fit, problem.network->outputs(), options.temperature,
              options.fit == "newton");
    // Its log-likelihood is that of the old noise, and so are the columns of the empirical Fisher.
    fit = fit_problem(options, *problem.network, *problem.likelihood, problem.train, root, bases);
  } else if (options.fit == "newton") {
    fit_priors_newton(result.priors, *fit.curvature);
  } else if (options.fit == "adam") {
    AdamPriorFit().step(result.priors, *fit.curvature, options.prior_steps);
  }
}

/// tr(B (x) A) / tr F of each block, where the fit did not need the exact trace.
void measure_trace_ratios(EvidenceProblem& problem, const CurvatureOptions& options,
                          EvidenceResult& result) {
  const auto* kron = dynamic_cast<const KronCurvature*>(result.fit.curvature.get());
  if (!kron || options.correction != Correction::kNone) return;
  const auto exact = fisher_traces(*problem.network, *problem.likelihood, problem.train, options);
  for (size_t m = 0; m < exact.size(); ++m) {
    const auto& factor = kron->factors()[m];
    if (exact[m] > 0)
      result.evidence.blocks[m].trace_ratio =
          (factor.a.traces() * factor.b.traces()).sum().item<double>() / exact[m];
  }
}

void predict_test(const EvidenceOptions& options, EvidenceProblem& problem, const Stream& root,
                  EvidenceResult& result) {
  const auto& likelihood = *problem.likelihood;
  const auto &x = problem.test->x, &y = problem.test->y;
  const auto outputs =
      output_distribution(*problem.network, x, *result.fit.curvature, result.priors, options.batch);
  result.test_function_variance = outputs.covariance.diagonal(0, 1, 2);
  if (likelihood.is_regression()) {
    const auto noise = torch::full_like(outputs.mean, 1 / likelihood.curvature_scale());
    const bool is_map = predictive_link(options) == Link::kMap;
    result.test =
        regression_metrics(outputs.mean, is_map ? noise : noise + result.test_function_variance, y);
    return;
  }
  const auto p = predict(outputs, likelihood, predictive_link(options), root.split("predictive"),
                         options.draws);
  result.test = likelihood.name() == "classification" ? classification_metrics(p, y)
                                                      : bernoulli_metrics(p, y);
}

}  // namespace

EvidenceResult measure_evidence(const EvidenceOptions& options, EvidenceProblem& problem,
                                const Stream& root, Log& log) {
  if (options.polish > 0) polish_network(options, problem, root, log);
  const bool checks = options.checks == "on";
  // Eigenvectors cost five times the eigenvalues, and the evidence alone does without.
  const bool bases = checks || problem.test || !options.save.empty();
  auto& network = *problem.network;
  EvidenceResult result;
  for (int64_t r = 0; r < options.repeat; ++r) {
    problem.likelihood = make_likelihood(options.likelihood, options.noise);
    auto& likelihood = *problem.likelihood;
    result.fit = fit_problem(options, network, likelihood, problem.train, root, bases);
    result.seconds.fit.push_back(result.fit.seconds_pass);
    result.seconds.eigen.push_back(result.fit.seconds_eigen);
    result.priors = make_priors(options, result.fit.curvature->blocks());

    auto start = Clock::now();
    fit_hyperparameters(options, problem, root, bases, result);
    const bool fitted = options.fit != "none" || options.fit_noise == "on";
    result.seconds.prior.push_back(fitted ? seconds_since(start) : 0.0);
    result.evidence = evaluate_evidence(result.fit, likelihood, result.priors, options.temperature);

    start = Clock::now();
    if (problem.test) predict_test(options, problem, root, result);
    result.seconds.predict.push_back(problem.test ? seconds_since(start) : 0.0);
    log.progress("evidence", r + 1, options.repeat,
                 fmt::format("log evidence {:.6g}", result.evidence.log_evidence));
  }
  if (checks) {
    measure_trace_ratios(problem, curvature_options(options, root, bases), result);
    result.checks =
        check_evidence(network, *problem.likelihood, problem.train, result.fit, result.priors,
                       options.temperature, root.split("checks"), options.batch);
  }
  return result;
}

}  // namespace evariste
