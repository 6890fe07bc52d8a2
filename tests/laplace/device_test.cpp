// The engine where its tensors are not on the CPU: the same numbers, for every layer and structure.
#include "tests/catch.h"

#include "core/error.h"
#include "laplace/cuda/recording.h"
#include "laplace/device.h"
#include "laplace/function_space.h"
#include "laplace/hyper_gradient.h"
#include "laplace/low_rank.h"
#include "laplace/plan.h"
#include "laplace/polish.h"
#include "laplace/posterior.h"
#include "laplace/predictive.h"
#include "laplace/prior_fit.h"
#include "laplace/tuning.h"
#include "tests/laplace/brute_force.h"
#include "tests/laplace/other_device.h"

using namespace evariste;

namespace {

constexpr int64_t kSamples = 5;

Samples on(const Samples& data, torch::Device device) {
  auto moved = data;
  moved.x = data.x.to(device);
  moved.y = data.y.to(device);
  return moved;
}

/// What `measure` says on both devices, number by number.
template <class Measure>
void check_both(const LayerExample& example, const Measure& measure, int64_t samples = kSamples) {
  const Samples data{example.inputs(samples), random_labels(samples, 3, 4)};
  const auto here = measure(*example.build(), data);
  auto network = example.build();
  network->to(other_device());
  const auto there = measure(*network, on(data, other_device()));
  REQUIRE(here.size() == there.size());
  double worst = 0;
  for (size_t i = 0; i < here.size(); ++i)
    worst = std::max(worst, std::abs(there[i] - here[i]) / (1e-2 + std::abs(here[i])));
  CHECK(worst < 1e-9);
}

int64_t parameters_of(Network& network) {
  int64_t sum = 0;
  for (const auto* block : named_blocks(network)) sum += block->parameters();
  return sum;
}

void append(std::vector<double>& out, const Tensor& values) {
  const auto flat = values.detach().cpu().to(torch::kFloat64).contiguous();
  out.insert(out.end(), flat.data_ptr<double>(), flat.data_ptr<double>() + flat.numel());
}

}  // namespace

TEST_CASE("the other device is one", "[laplace][device]") {
  const auto x = torch::randn({3, 4}), y = x.to(other_device());
  CHECK(torch::equal(y.t().matmul(y).cpu(), x.t().matmul(x)));
  CHECK(torch::equal(y.narrow(1, 1, 2).sum(0).cpu(), x.narrow(1, 1, 2).sum(0)));
  CHECK_THROWS_WITH(x.matmul(y.t()), Catch::Contains("same device"));
  CHECK_THROWS_WITH(y + x, Catch::Contains("same device"));
}

TEST_CASE("devices have names", "[laplace][device]") {
  CHECK(open_device("cpu").is_cpu());
  for (const auto* name : {"gpu", "cuda:", "cuda:x", "CUDA", ""})
    CHECK_THROWS_WITH(open_device(name), Catch::Contains("expected cpu, cuda or cuda:INDEX"));
  if (has_cuda()) {
    CHECK(open_device("cuda") == torch::Device(torch::kCUDA, 0));
    CHECK_THROWS_WITH(open_device("cuda:99"), Catch::Contains("the first is cuda:0"));
  } else {
    CHECK_THROWS_AS(open_device("cuda"), UsageError);
    CHECK_THROWS_WITH(open_device("cuda:1"), Catch::Contains("device cuda:1: t"));
  }
}

TEST_CASE("evidence and predictive of every layer on another device", "[laplace][device]") {
  for (const auto& example : layer_examples()) {
    CAPTURE(example.type, example.title);
    for (const auto structure : {Structure::kKron, Structure::kEkfac, Structure::kDiag,
                                 Structure::kBlock, Structure::kFull, Structure::kLastLayer}) {
      const bool is_dense = structure == Structure::kFull || structure == Structure::kBlock;
      if (is_dense && parameters_of(*example.build()) > 300) continue;  // copied again and again
      CAPTURE(static_cast<int>(structure));
      check_both(example, [&](Network& network, const Samples& data) {
        const auto options = options_of(structure);
        const Softmax likelihood;
        auto fit = fit_curvature(network, likelihood, data, options);
        auto priors = layerwise_priors(*fit.curvature, 0.7);
        NewtonOptions newton;
        newton.max_iterations = 2;
        fit_priors_newton(priors, *fit.curvature, newton);
        std::vector<double> out = {evaluate_evidence(fit, likelihood, priors).log_evidence,
                                   plan_curvature(network, likelihood, data, options).bytes()};
        if (fit.curvature->takes_entry_precisions()) {
          Priors entries;
          for (const auto* block : fit.curvature->blocks())
            entries.emplace_back(DiagonalGaussian(0.7, block->value().sizes()));
          fit_priors_newton(entries, *fit.curvature, newton);
          out.push_back(evaluate_evidence(fit, likelihood, entries).log_evidence);
        }
        const auto checks =
            check_evidence(network, likelihood, data, fit, priors, 1, Stream(3), 2, 2);
        out.insert(out.end(), {checks.newton_decrement, checks.linearised_gap});
        const auto outputs = output_distribution(network, data.x, *fit.curvature, priors, 2);
        for (const auto link : {Link::kProbit, Link::kMc, Link::kBridge, Link::kMap})
          append(out, predict(outputs, likelihood, link, Stream(5), 7));
        append(out, posterior_covariance(network, data.x, data.x, *fit.curvature, priors, 2));
        return out;
      });
    }
  }
}

TEST_CASE("every Kronecker option on another device", "[laplace][device]") {
  std::vector<CurvatureOptions> list;
  const auto add = [&](const auto& change) {
    list.push_back(options_of(Structure::kKron));
    change(list.back());
  };
  add([](auto& o) { o.fisher = Fisher::kMonteCarlo; });
  add([](auto& o) { o.fisher = Fisher::kEmpirical; });
  add([](auto& o) { o.sharing = Sharing::kReduce; });
  add([](auto& o) { o.correction = Correction::kSketch; });
  add([](auto& o) { o.bias = BiasCurvature::kJoint, o.norm = NormCurvature::kJoint; });
  add([](auto& o) { o.rank_tolerance = 0.3, o.batch = 2; });
  add([](auto& o) { o.positions = Positions::kAll; });
  for (const auto& example : layer_examples()) {
    CAPTURE(example.type, example.title);
    for (size_t i = 0; i < list.size(); ++i) {
      CAPTURE(i);
      check_both(example, [&](Network& network, const Samples& data) {
        const Softmax likelihood;
        try {
          plan_curvature(network, likelihood, data, list[i]);
        } catch (const UsageError&) {  // of groups that share a bias
          if (list[i].bias != BiasCurvature::kJoint) throw;
          return std::vector<double>();
        }
        const auto fit = fit_curvature(network, likelihood, data, list[i]);
        const auto priors = layerwise_priors(*fit.curvature, 0.7);
        std::vector<double> out = {evaluate_evidence(fit, likelihood, priors).log_evidence};
        for (const auto trace : fisher_traces(network, likelihood, data, list[i]))
          out.push_back(trace);
        return out;
      });
    }
  }
}

TEST_CASE("recorded steps are repeated where their tensors are", "[laplace][device]") {
  const auto x = torch::arange(3, torch::kFloat64).to(other_device());
  auto sum = torch::zeros({3}, x.options());
  int called = 0;
  cuda::RecordedSteps steps(other_device());
  for (int i = 0; i < 4; ++i) {
    x.fill_(i);
    steps.run(0, [&] {
      ++called;
      sum += 2 * x.add(1).contiguous();
    });
  }
  CHECK(called == 2);
  CHECK(sum.cpu()[2].item<double>() == 2 * (1 + 2 + 3 + 4));
  const auto refused = [&](const std::function<void()>& work) {
    cuda::RecordedSteps bad(other_device());
    bad.run(0, work);
    CHECK_THROWS_AS(bad.run(0, work), NumericalError);
  };
  refused([&] { x.sum().item<double>(); });
  refused([&] { x.cpu(); });
  refused([&] { sum += torch::ones({3}, torch::kFloat64).to(other_device()); });
  called = 0;
  cuda::RecordedSteps here(torch::kCPU);
  for (int i = 0; i < 3; ++i) here.run(0, [&] { ++called; });
  CHECK(called == 3);
}

TEST_CASE("the pass of a fit can be recorded, for every layer", "[laplace][device]") {
  std::vector<CurvatureOptions> list;
  for (const auto structure : {Structure::kKron, Structure::kEkfac, Structure::kDiag}) {
    list.push_back(options_of(structure));
    list.back().batch = 2;  // of seven samples: as it is, recorded, repeated; and one alone
  }
  list.front().correction = Correction::kSketch;
  list[1].fisher = Fisher::kMonteCarlo;
  list.push_back(list.front());
  list.back().correction = Correction::kTrace;
  list.back().sharing = Sharing::kReduce;
  for (const auto& example : layer_examples()) {
    CAPTURE(example.type, example.title);
    for (size_t i = 0; i < list.size(); ++i) {
      CAPTURE(i);
      CHECK_NOTHROW(check_both(
          example,
          [&](Network& network, const Samples& data) {
            auto options = list[i];
            options.graphs = !data.x.device().is_cpu();
            const Softmax likelihood;
            const auto fit = fit_curvature(network, likelihood, data, options);
            const auto priors = layerwise_priors(*fit.curvature, 0.7);
            std::vector<double> out = {fit.log_likelihood,
                                       evaluate_evidence(fit, likelihood, priors).log_evidence};
            const auto ratios = fit.curvature->trace_ratios();
            for (const auto ratio : ratios)
              if (!std::isnan(ratio)) out.push_back(ratio);
            return out;
          },
          7));
    }
  }
}

TEST_CASE("cuda graphs: the pass of a fit is the same recorded", "[laplace][device][cuda]") {
  if (!has_cuda()) {
    WARN("skipped: no CUDA device");
    return;
  }
  for (const auto& example : layer_examples()) {
    CAPTURE(example.type, example.title);
    const auto network = example.build();
    network->to(torch::kCUDA);
    const auto data =
        on({example.inputs(9), random_labels(9, 3, 4)}, torch::Device(torch::kCUDA, 0));
    for (const auto structure : {Structure::kKron, Structure::kEkfac, Structure::kDiag})
      for (const auto fisher : {Fisher::kExact, Fisher::kMonteCarlo}) {
        CAPTURE(static_cast<int>(structure), static_cast<int>(fisher));
        auto options = options_of(structure);
        options.fisher = fisher;
        options.batch = 2;
        std::vector<double> found;
        for (const bool graphs : {false, true}) {
          options.graphs = graphs;
          const auto fit = fit_curvature(*network, Softmax(), data, options);
          const auto priors = layerwise_priors(*fit.curvature, 0.7);
          found.push_back(evaluate_evidence(fit, Softmax(), priors).log_evidence);
        }
        CHECK(found[1] == Approx(found[0]).epsilon(1e-9));
      }
  }
}

TEST_CASE("what cannot be recorded says so", "[laplace][device]") {
  const auto& example = layer_examples().front();
  const Samples data{example.inputs(kSamples), random_labels(kSamples, 3, 4)};
  const auto network = example.build();
  for (const auto structure : {Structure::kBlock, Structure::kFull, Structure::kLastLayer}) {
    auto options = options_of(structure);
    options.graphs = true;
    CHECK_THROWS_WITH(fit_curvature(*network, Softmax(), data, options),
                      Catch::Contains("kron, ekfac and diag"));
  }
  auto options = options_of(Structure::kKron);
  options.graphs = true;
  options.rank_tolerance = 0.1;
  CHECK_THROWS_WITH(fit_curvature(*network, Softmax(), data, options),
                    Catch::Contains("use one of the two"));
}

TEST_CASE("gradients of the evidence on another device", "[laplace][device]") {
  for (const auto& example : layer_examples()) {
    CAPTURE(example.type, example.title);
    check_both(example, [&](Network& network, const Samples& data) {
      const Softmax likelihood;
      const auto options = options_of(Structure::kKron);
      const auto fit = fit_curvature(network, likelihood, data, options);
      const auto priors = layerwise_priors(*fit.curvature, 0.7);
      const auto x = data.x.detach().clone().requires_grad_();
      evidence_surrogate(network, likelihood, {x, data.y}, fit,
                         log_det_cotangents(fit, likelihood, priors), options)
          .backward();
      std::vector<double> out;
      append(out, x.grad());
      for (const auto& test : entry_tests(network, likelihood, data, fit, 2))
        out.push_back(test.gain);
      return out;
    });
  }
}

TEST_CASE("likelihoods and what follows a fit on another device", "[laplace][device]") {
  const auto& example = layer_examples().front();
  for (const auto* name : {"classification", "bernoulli", "regression"}) {
    CAPTURE(name);
    check_both(example, [&](Network& network, const Samples& given) {
      Posterior posterior;
      posterior.likelihood = make_likelihood(name, 0.7);
      auto data = given;
      const auto targets = torch::linspace(0.1, 0.9, kSamples * 3, torch::kFloat64);
      if (posterior.likelihood->name() != "classification")
        data.y = targets.view({kSamples, 3}).to(data.x.device());
      std::vector<double> out;
      LowRankOptions low;
      low.rank = 3;
      posterior.fit = fit_low_rank(network, *posterior.likelihood, data, low);
      posterior.priors = layerwise_priors(*posterior.fit.curvature, 0.7);
      out.push_back(posterior.evidence().log_evidence);
      append(out, output_distribution(network, data.x, *posterior.fit.curvature, posterior.priors)
                      .covariance);
      for (const auto fisher : {Fisher::kExact, Fisher::kMonteCarlo, Fisher::kEmpirical}) {
        auto options = options_of(Structure::kKron);
        options.fisher = fisher;
        posterior.fit = fit_curvature(network, *posterior.likelihood, data, options);
        posterior.priors = layerwise_priors(*posterior.fit.curvature, 0.7);
        out.push_back(posterior.evidence().log_evidence);
      }
      AdamPriorFit().step(posterior.priors, *posterior.fit.curvature, 3);
      out.push_back(posterior.evidence().log_evidence);
      const bool is_regression = posterior.likelihood->is_regression();
      if (is_regression) {
        posterior.priors = layerwise_priors(*posterior.fit.curvature, 50);
        out.push_back(fit_noise(dynamic_cast<Gaussian&>(*posterior.likelihood), posterior.priors,
                                posterior.fit, 3, 1, false));
      }
      const Validation validation{network, data};
      DescentOptions descent;
      descent.steps = 2;
      descent.temperature = true;
      out.push_back(descend_validation(posterior, validation, 3, descent).path.back().value);
      for (const auto& [key, draws] : posterior_samples(posterior, 2, Stream(3)))
        append(out, draws);
      const auto record = record_of(posterior, posterior.evidence());
      const auto again = restore(record, network, "here");
      out.push_back(again.evidence().log_evidence);
      for (const auto& step : polish(network, *posterior.likelihood, data, posterior.priors, 1,
                                     options_of(Structure::kKron), 2))
        out.push_back(step.objective);
      return out;
    });
  }
}
