#include "experiments/evidence/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <charconv>

#include "core/expect.h"
#include "core/nearest.h"
#include "laplace/low_rank.h"
#include "laplace/priors/builtin.h"

namespace evariste {
namespace {

std::string flag_name(std::string_view key) {
  std::string name = "--" + std::string(key);
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

/// CLI11 would take 99999999999999999999 for the largest int64.
std::string check_int64(const std::string& text) {
  int64_t value = 0;
  const auto* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, value);
  if (parsed.ec == std::errc() && parsed.ptr == end) return "";
  return fmt::format("found \"{}\", expected an integer", text);
}

/// Adds a flag for each field.
class Flags {
 public:
  explicit Flags(CLI::App& app) : app_(app) {}

  template <class Value>
  void operator()(std::string_view key, Value& value, std::string_view help,
                  std::initializer_list<std::string_view> choices = {}) {
    const std::vector<std::string> known(choices.begin(), choices.end());
    auto* option = app_.add_option(flag_name(key), value, std::string(help));
    if constexpr (std::is_arithmetic_v<Value>) option->capture_default_str();
    if constexpr (std::is_same_v<Value, int64_t>) option->check(check_int64);
    if constexpr (!std::is_same_v<Value, std::vector<double>>)
      option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    if (known.empty()) return;
    option->type_name(fmt::format("{}", fmt::join(known, "|")));
    option->check([known, key = std::string(key)](const std::string& text) {
      const bool is_known = std::find(known.begin(), known.end(), text) != known.end();
      return is_known ? std::string() : unknown_name(key, text, known);
    });
  }

 private:
  CLI::App& app_;
};

void expect_values(const EvidenceOptions& o) {
  for (const auto& [key, value] : {std::pair("network", o.network), std::pair("weights", o.weights),
                                   std::pair("data", o.data)})
    if (value.empty())
      throw UsageError(
          fmt::format("--{} FILE is missing; --network, --weights and --data are needed", key));
  expect_positive(flag_name("temperature"), o.temperature);
  expect_positive(flag_name("noise"), o.noise);
  for (const auto precision : o.prior_precision)
    expect_positive(flag_name("prior_precision"), precision);
  if (o.prior_precision.empty())
    throw UsageError("--prior-precision: expected one value or one per block, found none");
  expect(o.rank_tolerance >= 0 && o.rank_tolerance < 1, flag_name("rank_tolerance"),
         "0 or more and below 1", o.rank_tolerance);
  expect_at_least(flag_name("mc_samples"), o.mc_samples, 1);
  expect_at_least(flag_name("prior_steps"), o.prior_steps, 1);
  expect_at_least(flag_name("draws"), o.draws, 1);
  expect_at_least(flag_name("rank"), o.rank, 1);
  expect_at_least(flag_name("batch"), o.batch, 1);
  expect_at_least(flag_name("repeat"), o.repeat, 1);
  expect_at_least(flag_name("polish"), o.polish, 0);
  if (!(o.budget >= 0) || !std::isfinite(o.budget))
    throw UsageError(
        fmt::format("{}: expected GB, at least 0, found {}", flag_name("budget"), o.budget));
}

void expect_combination(const EvidenceOptions& o, const CommandLine& line) {
  const bool is_regression = o.likelihood == "regression";
  if (o.structure == "lowrank") {
    if (o.fisher != "exact")
      throw UsageError(fmt::format(
          "--fisher {}: --structure lowrank multiplies with the exact Fisher, leave it out",
          o.fisher));
    if (o.polish > 0)
      throw UsageError("--polish takes K-FAC steps: use --structure kron with it, not lowrank");
    if (o.rank_tolerance > 0)
      throw UsageError("--rank-tolerance: --structure lowrank has no columns to leave out");
  } else if (o.rank != EvidenceOptions().rank) {
    throw UsageError("--rank has no meaning without --structure lowrank");
  }
  const bool is_kron = o.structure == "kron" || o.structure == "ekfac";
  if (o.structure == "ekfac") {
    if (o.sharing == "reduce")
      throw UsageError(
          "--sharing reduce has no unique basis for --structure ekfac: leave it out or use "
          "--structure kron");
    if (o.correction == "none")
      throw UsageError(
          "--correction none: --structure ekfac has the exact trace by definition, leave it out");
  }
  if (!is_kron)
    for (const auto& [key, value, of_factors] : {std::tuple("sharing", o.sharing, "reduce"),
                                                 {"positions", o.positions, "all"},
                                                 {"correction", o.correction, "none"},
                                                 {"bias", o.bias, "expand"},
                                                 {"bias", o.bias, "joint"}})
      if (value == of_factors)
        throw UsageError(fmt::format(
            "{} {} says how Kronecker factors are made, which --structure {} does not have: "
            "leave it out or use --structure kron",
            flag_name(key), value, o.structure));
  if (is_kron && o.prior == "diagonal")
    throw UsageError(fmt::format(
        "--prior diagonal has one precision per entry, which --structure {} cannot be combined "
        "with: use --structure diag, block or full, or --prior layerwise",
        o.structure));
  if (o.prior == "scalar" && o.prior_precision.size() > 1)
    throw UsageError(fmt::format("--prior scalar takes one --prior-precision, found {}",
                                 o.prior_precision.size()));
  if (is_regression && (o.predictive == "mc" || o.predictive == "bridge"))
    throw UsageError(fmt::format(
        "--predictive {} with --likelihood regression: the predictive is Gaussian in closed form, "
        "use map or probit",
        o.predictive));
  if (o.likelihood == "bernoulli" && o.predictive == "bridge")
    throw UsageError(
        "--predictive bridge is defined for --likelihood classification only: use probit");
  const EvidenceOptions defaults;
  const auto without = [](std::string_view flag, std::string_view needs) {
    throw UsageError(fmt::format("{} has no meaning without {}", flag, needs));
  };
  if (o.mc_samples != defaults.mc_samples && o.fisher != "mc")
    without("--mc-samples", "--fisher mc");
  if (o.rank_tolerance > 0 && o.fisher != "exact") without("--rank-tolerance", "--fisher exact");
  if (o.noise != defaults.noise && !is_regression) without("--noise", "--likelihood regression");
  if (o.prior_steps != defaults.prior_steps && o.fit != "adam")
    without("--prior-steps", "--fit adam");
  if (o.draws != defaults.draws && o.predictive != "mc") without("--draws", "--predictive mc");
  if (!line.out.empty() && o.save.empty()) without("--out", "--save");
  if (line.resume)
    throw UsageError("--resume: evidence has nothing to go on with; --repeat measures again");
  if (o.fit_noise == "on" && !is_regression)
    throw UsageError(
        fmt::format("--fit-noise on needs --likelihood regression, found {}", o.likelihood));
  if (o.fit_noise == "on" && o.fit == "adam")
    throw UsageError("--fit-noise on goes with --fit newton or none, found adam");
  if (line.device != "cpu")
    throw UsageError(
        fmt::format("--device {}: evidence computes on the CPU in this version, use --device cpu",
                    line.device));
}

}  // namespace

EvidenceRequest parse_evidence_request(int argc, char** argv) {
  EvidenceRequest request;
  const auto parse = [&](EvidenceOptions& options) {
    return parse_command_line(argc, argv, "evidence",
                              "Laplace evidence, prior fit and predictive of a saved network",
                              [&](CLI::App& app) { options.visit(Flags(app)); });
  };
  auto& line = request.command_line = parse(request.options);
  if (!line.config.empty()) {
    request.options =
        from_toml<EvidenceOptions>(resolve_config(line.config, line.preset, line.set));
    line = parse(request.options);  // again, so that flags win over the file
  } else if (!line.set.empty()) {
    throw UsageError(
        fmt::format("--set {}: there is no --config to change; use flags", line.set.front()));
  }
  expect_values(request.options);
  expect_combination(request.options, line);
  return request;
}

CurvatureOptions curvature_options(const EvidenceOptions& o, const Stream& root, bool bases) {
  CurvatureOptions c;
  c.structure = o.structure == "ekfac"       ? Structure::kEkfac
                : o.structure == "diag"      ? Structure::kDiag
                : o.structure == "block"     ? Structure::kBlock
                : o.structure == "full"      ? Structure::kFull
                : o.structure == "lastlayer" ? Structure::kLastLayer
                                             : Structure::kKron;
  c.fisher = o.fisher == "mc"          ? Fisher::kMonteCarlo
             : o.fisher == "empirical" ? Fisher::kEmpirical
                                       : Fisher::kExact;
  c.mc_samples = o.mc_samples;
  c.rank_tolerance = o.rank_tolerance;
  c.sharing = o.sharing == "reduce" ? Sharing::kReduce : Sharing::kExpand;
  c.correction = o.correction == "none"     ? Correction::kNone
                 : o.correction == "sketch" ? Correction::kSketch
                                            : Correction::kTrace;
  c.bias = o.bias == "expand"  ? BiasCurvature::kExpand
           : o.bias == "joint" ? BiasCurvature::kJoint
                               : BiasCurvature::kExact;
  c.positions = o.positions == "all" ? Positions::kAll : Positions::kSelected;
  c.batch = o.batch;
  c.only = o.only;
  c.stream = root.split("fisher");
  c.bases = bases;
  return c;
}

Fit fit_problem(const EvidenceOptions& options, Layer& network, const Likelihood& likelihood,
                const Samples& data, const Stream& root, bool bases) {
  if (options.structure != "lowrank")
    return fit_curvature(network, likelihood, data, curvature_options(options, root, bases));
  LowRankOptions low;
  low.rank = options.rank;
  low.batch = options.batch;
  low.only = options.only;
  low.stream = root.split("subspace");
  return fit_low_rank(network, likelihood, data, low);
}

torch::ScalarType scalar_type(const EvidenceOptions& options) {
  return options.dtype == "float64" ? torch::kFloat64 : torch::kFloat32;
}

Link predictive_link(const EvidenceOptions& o) {
  return o.predictive == "probit"   ? Link::kProbit
         : o.predictive == "mc"     ? Link::kMc
         : o.predictive == "bridge" ? Link::kBridge
                                    : Link::kMap;
}

std::vector<Prior> make_priors(const EvidenceOptions& options,
                               const std::vector<const Block*>& blocks) {
  const auto& given = options.prior_precision;
  if (given.size() > 1 && given.size() != blocks.size()) {
    std::vector<std::string> names;
    for (const auto* block : blocks) names.push_back(block->name);
    throw UsageError(fmt::format(
        "--prior-precision: expected one value or one for each of the {} blocks ({}), found {}",
        blocks.size(), fmt::join(names, ", "), given.size()));
  }
  std::vector<Prior> priors;
  for (size_t m = 0; m < blocks.size(); ++m) {
    const auto precision = given[given.size() > 1 ? m : 0];
    if (options.prior == "diagonal") {
      priors.emplace_back(DiagonalGaussian(precision, blocks[m]->value().sizes()));
    } else if (options.prior == "scalar" && m > 0) {
      priors.push_back(priors.front());
    } else {
      priors.emplace_back(IsotropicGaussian(precision));
    }
  }
  return priors;
}

}  // namespace evariste
