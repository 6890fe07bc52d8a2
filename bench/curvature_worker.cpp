// Our side of the comparison with other codes: one case, stages on request (bench/compare.py).
//
// Reads one line of JSON per run from standard input, {"stage": "kron"}, runs that stage once and
// answers with one line, {"seconds", "cpu", "value", "peak_mib"}. `value` is what the peers print
// for the same stage: log|P| at prior precision 1, the log evidence, a mean probability, or the sum
// of squared input gradients. Of a pass over the data also "gflop" and "gbyte", what it calculates
// by plan_curvature and would move without caches, and the "eigen_seconds" beside it. The stage
// "machine" answers {"gflops", "gbytes"}, the rates of a 2048^3 sgemm and of a copy that no cache
// holds.
#include <torch/utils.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <functional>
#include <limits>
#include <optional>
#include <utility>

#include "bench/worker.h"
#include "core/memory.h"
#include "io/safetensors.h"
#include "laplace/hyper_gradient.h"
#include "laplace/plan.h"
#include "laplace/predictive.h"
#include "laplace/priors/isotropic_gaussian.h"
#include "nn/network.h"

using namespace evariste;
using Json = nlohmann::json;

namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

class Case {
 public:
  Case(const std::string& network, const std::string& weights, const std::string& data,
       int64_t batch, bool wide)
      : network_(load_network(network)), batch_(batch) {
    load_weights(*network_, weights);
    const auto type = wide ? torch::kFloat64 : torch::kFloat32;
    network_->to(type);
    network_->eval();
    for (const auto& tensor : read_safetensors(data)) {
      const auto value = to_tensor(tensor, data);
      if (tensor.name == "x") samples_.x = value.to(type);
      if (tensor.name == "y") samples_.y = value;
      if (tensor.name == "points") points_ = value.to(type);
    }
  }

  /// One epoch of plain training: forward, backward, SGD step.
  double plain() {
    torch::NoGradGuard no_grad;
    for (int64_t i = 0; i < samples_.count(); i += batch_) {
      const auto count = std::min(batch_, samples_.count() - i);
      Tape tape;
      const auto f = network_->forward(samples_.x.narrow(0, i, count), &tape);
      std::map<const Block*, Tensor> gradients;
      network_->backward(
          likelihood_.score(f, samples_.y.narrow(0, i, count)).unsqueeze(0) / count, tape,
          [&](const Block& block, const Tensor& x, const Tensor& g) {
            gradients[&block] = block.from_matrix(block.gradient(x, g[0]));
          },
          false);
      for (const auto& [block, gradient] : gradients)
        Tensor(block->weight()).add_(gradient, 0.0);  // the same work, no drift
    }
    CurvatureOptions gradients;  // of one column per sample, as in training
    gradients.structure = Structure::kDiag;
    gradients.fisher = Fisher::kEmpirical;
    planned_ = gradients;
    return 0;
  }

  double fit(Structure structure, Fisher fisher, bool bases,
             Correction correction = Correction::kNone) {  // none of the peers corrects
    CurvatureOptions options;
    options.structure = structure;
    options.fisher = fisher;
    options.correction = correction;
    options.bias = BiasCurvature::kExpand;
    options.batch = batch_;
    options.bases = bases;
    options.eigen_type = samples_.x.scalar_type();
    if (structure != Structure::kKron) options.bias = BiasCurvature::kExact;
    options_ = options;
    fit_ = fit_curvature(*network_, likelihood_, samples_, options);
    planned_ = options;
    is_exact_kron_ = structure == Structure::kKron && fisher == Fisher::kExact && bases &&
                     correction == Correction::kNone;
    const auto unit = priors(1.0);
    return fit_.curvature->log_det_ratio(precisions_of(unit, *fit_.curvature));
  }

  /// The same as `fit`, of which only the pass over the data counts: factors without spectra, as
  /// some codes stop there.
  double factors(Fisher fisher) {
    const auto value = fit(Structure::kKron, fisher, false);
    counted_ = fit_.seconds_pass;
    return value;
  }

  /// The same, of which only the eigenvalues count.
  double eigenvalues() {
    const auto value = fit(Structure::kKron, Fisher::kExact, false);
    counted_ = fit_.seconds_eigen;
    planned_.reset();
    return value;
  }

  /// Log evidence and its gradient at 20 precisions.
  double evidence() {
    require_kron();
    double last = 0;
    for (int i = 0; i < 20; ++i) {
      const auto at = priors(std::pow(10.0, -2 + 6.0 * i / 19));
      last = evaluate_evidence(fit_, likelihood_, at).log_evidence;
    }
    return last;
  }

  /// Gradient of the log evidence in every input, with its fit.
  double hyper_gradient_total() {
    fit(Structure::kKron, Fisher::kExact, true);
    const auto value = hyper_gradient();
    counted_.reset();
    passes_ = 2;
    return value;
  }

  /// The same after a fit.
  double hyper_gradient() {
    require_kron();
    const auto start = std::chrono::steady_clock::now();
    const auto cotangents = log_det_cotangents(fit_, likelihood_, priors(1.0));
    double sum = 0;
    for (int64_t i = 0; i < samples_.count(); i += batch_) {
      const auto count = std::min(batch_, samples_.count() - i);
      const auto x = samples_.x.narrow(0, i, count).detach().requires_grad_();
      evidence_surrogate(*network_, likelihood_, {x, samples_.y.narrow(0, i, count), 0}, fit_,
                         cotangents, options_)
          .backward();
      sum += x.grad().square().sum().item<double>();
    }
    counted_ = seconds_since(start);
    planned_ = options_;
    return sum;
  }

  /// Seconds of the last run that count, where they are fewer than all.
  std::optional<double> take_counted() { return std::exchange(counted_, std::nullopt); }

  double predictive(int64_t points) {
    require_kron();
    const auto outputs = output_distribution(*network_, points_.narrow(0, 0, points),
                                             *fit_.curvature, priors(1.0), batch_);
    return std::get<0>(predict(outputs, likelihood_, Link::kProbit).max(1)).mean().item<double>();
  }

  /// What the last pass over the data calculated and moved, where that is known: bytes as if every
  /// activation and every cotangent were written once and read once. A hyper-gradient is one more
  /// pass, at least.
  Json take_rates() {
    if (!planned_) return Json::object();
    torch::NoGradGuard no_grad;
    const auto passes = std::exchange(passes_, 1);
    const auto options = *std::exchange(planned_, std::nullopt);
    const auto plan = plan_curvature(*network_, likelihood_, samples_, options);
    const auto f = network_->forward(samples_.x.narrow(0, 0, 1));
    const auto columns =
        options.fisher == Fisher::kExact ? likelihood_.hessian_root(f).size(0) : int64_t{1};
    const auto tape = pass_bytes(*network_, samples_, 1, -1);  // one sample's, nothing beside it
    const auto written = tape * static_cast<double>(samples_.count() * (1 + columns));
    return {{"gflop", 1e-9 * passes * plan.stages[0].flops},
            {"gbyte", 2e-9 * passes * written},
            {"eigen_seconds", fit_.seconds_eigen}};
  }

 private:
  void require_kron() {
    if (!is_exact_kron_) fit(Structure::kKron, Fisher::kExact, true);
  }
  Priors priors(double precision) const {
    Priors out;
    for (size_t m = 0; m < fit_.curvature->blocks().size(); ++m)
      out.emplace_back(IsotropicGaussian(precision));
    return out;
  }

  std::shared_ptr<Network> network_;
  int64_t batch_;
  Samples samples_;
  Tensor points_;
  Softmax likelihood_;
  Fit fit_;
  CurvatureOptions options_;    // of fit_
  bool is_exact_kron_ = false;  // fit_ is, with its bases
  std::optional<double> counted_;
  std::optional<CurvatureOptions> planned_;  // of the last run
  double passes_ = 1;
};

/// The best of ten: GFLOP/s of a 2048^3 product, GB/s of a copy of 256 MiB, read and written.
Json machine() {
  torch::NoGradGuard no_grad;
  const auto a = torch::randn({2048, 2048}), b = torch::randn({2048, 2048});
  const auto from = torch::zeros({int64_t{1} << 26});
  auto product = torch::empty({2048, 2048}), to = torch::zeros_like(from);
  double multiply = std::numeric_limits<double>::infinity(), copy = multiply;
  for (int i = 0; i < 10; ++i) {
    auto start = std::chrono::steady_clock::now();
    torch::mm_out(product, a, b);
    multiply = std::min(multiply, seconds_since(start));
    start = std::chrono::steady_clock::now();
    to.copy_(from);
    copy = std::min(copy, seconds_since(start));
  }
  return {{"gflops", 2e-9 * std::pow(2048, 3) / multiply},
          {"gbytes", 2e-9 * static_cast<double>(from.nbytes()) / copy}};
}

}  // namespace

int main(int argc, char** argv) {
  keep_freed_memory();  // as our programs do
  std::string network, weights, data;
  int64_t batch = 0;
  int threads = 1;
  bool wide = false;
  CLI::App app{"Runs one case of the comparison with other codes; bench/compare.py drives it"};
  app.add_option("--network", network)->required();
  app.add_option("--weights", weights)->required();
  app.add_option("--data", data)->required();
  app.add_option("--batch", batch)->required();
  app.add_option("--threads", threads)->required();
  app.add_flag("--float64", wide, "the reference for the errors");
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(threads);
  at::globalContext().setFlushDenormal(true);
  Case one(network, weights, data, batch, wide);
  const std::map<std::string, std::function<double()>> runs = {
      {"plain", [&] { return one.plain(); }},
      {"kron", [&] { return one.fit(Structure::kKron, Fisher::kExact, true); }},
      {"kron_values", [&] { return one.fit(Structure::kKron, Fisher::kExact, false); }},
      {"kron_corrected",
       [&] { return one.fit(Structure::kKron, Fisher::kExact, true, Correction::kTrace); }},
      {"kron_sketched",
       [&] { return one.fit(Structure::kKron, Fisher::kExact, true, Correction::kSketch); }},
      {"factors", [&] { return one.factors(Fisher::kExact); }},
      {"factors_mc", [&] { return one.factors(Fisher::kMonteCarlo); }},
      {"factors_empirical", [&] { return one.factors(Fisher::kEmpirical); }},
      {"kron_mc", [&] { return one.fit(Structure::kKron, Fisher::kMonteCarlo, false); }},
      {"kron_empirical", [&] { return one.fit(Structure::kKron, Fisher::kEmpirical, false); }},
      {"ekfac", [&] { return one.fit(Structure::kEkfac, Fisher::kExact, true); }},
      {"diag", [&] { return one.fit(Structure::kDiag, Fisher::kExact, false); }},
      {"last_layer", [&] { return one.fit(Structure::kLastLayer, Fisher::kExact, false); }},
      {"eigenvalues", [&] { return one.eigenvalues(); }},
      {"evidence", [&] { return one.evidence(); }},
      {"hyper_gradient", [&] { return one.hyper_gradient(); }},
      {"hyper_gradient_total", [&] { return one.hyper_gradient_total(); }},
      {"predictive_20", [&] { return one.predictive(20); }}};
  std::map<std::string, Stage> stages = {{"machine", machine}};
  for (const auto& [name, run] : runs)
    stages[name] = [&one, &run] {
      const double cpu = cpu_seconds();
      const auto start = std::chrono::steady_clock::now();
      Json answer = {{"value", run()}};
      const double wall = seconds_since(start);
      const auto counted = one.take_counted();  // a part of the run, of which alone is asked
      answer.update(one.take_rates());
      if (counted) {
        answer["seconds"] = *counted;
        answer["cpu"] = *counted * (cpu_seconds() - cpu) / wall;
        answer.erase("eigen_seconds");
      }
      return answer;
    };
  serve(stages);
  return 0;
}
