#include "experiments/evidence/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <charconv>

#include "core/expect.h"
#include "core/nearest.h"
#include "laplace/low_rank.h"
#include "laplace/priors/builtin.h"
#include "laplace/tuning.h"

namespace evariste {

std::string flag_name(std::string_view key) {
  std::string name = "--" + std::string(key);
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

namespace {

/// CLI11 would take 99999999999999999999 for the largest int64.
std::string check_int64(const std::string& text) {
  int64_t value = 0;
  const auto* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, value);
  if (parsed.ec == std::errc() && parsed.ptr == end) return "";
  return fmt::format("found \"{}\", expected an integer", text);
}

/// Adds a flag for each field; `given` learns of those that are used.
class Flags {
 public:
  Flags(CLI::App& app, std::set<std::string>& given) : app_(app), given_(given) {}

  template <class Value>
  void operator()(std::string_view key, Value& value, std::string_view help,
                  std::initializer_list<std::string_view> choices = {}) {
    const std::vector<std::string> known(choices.begin(), choices.end());
    auto* option = app_.add_option(flag_name(key), value, std::string(help));
    if constexpr (std::is_arithmetic_v<Value>) option->capture_default_str();
    if constexpr (std::is_same_v<Value, int64_t>) option->check(check_int64);
    if constexpr (!std::is_same_v<Value, std::vector<double>>)
      option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    option->each(
        [&given = given_, key = std::string(key)](const std::string&) { given.insert(key); });
    if (known.empty()) return;
    option->type_name(fmt::format("{}", fmt::join(known, "|")));
    option->check([known, key = std::string(key)](const std::string& text) {
      const bool is_known = std::find(known.begin(), known.end(), text) != known.end();
      return is_known ? std::string() : unknown_name(key, text, known);
    });
  }

 private:
  CLI::App& app_;
  std::set<std::string>& given_;
};

void expect_values(const EvidenceOptions& o) {
  const bool loads = !o.load.empty();
  for (const auto& [key, value] : {std::pair("network", o.network), std::pair("weights", o.weights),
                                   std::pair("data", loads ? o.load : o.data)})
    if (value.empty())
      throw UsageError(fmt::format(
          "--{} FILE is missing; --network, --weights and --data (or --load) are needed", key));
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
  expect_at_least(flag_name("bound_samples"), o.bound_samples, 1);
  expect_at_least(flag_name("bound_draws"), o.bound_draws, 0);
  expect_at_least(flag_name("grid_points"), o.grid_points, 2);
  expect_at_least(flag_name("samples"), o.samples, 0);
  expect_at_least(flag_name("rotations"), o.rotations, 2);
  expect_positive(flag_name("grid_low"), o.grid_low);
  expect_positive(flag_name("grid_high"), o.grid_high);
  if (!(o.budget >= 0) || !std::isfinite(o.budget))
    throw UsageError(
        fmt::format("{}: expected GB, at least 0, found {}", flag_name("budget"), o.budget));
}

[[noreturn]] void without(std::string_view flag, std::string_view needs) {
  throw UsageError(fmt::format("{} has no meaning without {}", flag, needs));
}

/// Options that only speak to others.
void expect_meaning(const EvidenceRequest& request) {
  const auto& [line, o, given] = request;
  const EvidenceOptions defaults;
  if (o.mc_samples != defaults.mc_samples && o.fisher != "mc")
    without("--mc-samples", "--fisher mc");
  if (o.rank_tolerance > 0 && o.fisher != "exact") without("--rank-tolerance", "--fisher exact");
  if (o.graphs == "on" && line.device.rfind("cuda", 0) != 0)
    without("--graphs on", "--device cuda");
  if (o.graphs == "on" && o.rank_tolerance > 0)
    throw UsageError(
        "--graphs on repeats the same work for every chunk, --rank-tolerance leaves out columns: "
        "use one of the two");
  if (o.graphs == "on" && o.structure != "kron" && o.structure != "ekfac" && o.structure != "diag")
    throw UsageError(fmt::format(
        "--graphs on records the sums of --structure kron, ekfac and diag, not those of {}",
        o.structure));
  if (o.noise != defaults.noise && o.likelihood != "regression")
    without("--noise", "--likelihood regression");
  if (o.prior_steps != defaults.prior_steps && o.fit != "adam")
    without("--prior-steps", "--fit adam");
  if (o.fit != "grid")
    for (const auto& [key, is_default] :
         {std::pair("grid_low", o.grid_low == defaults.grid_low),
          std::pair("grid_high", o.grid_high == defaults.grid_high),
          std::pair("grid_points", o.grid_points == defaults.grid_points)})
      if (!is_default) without(flag_name(key), "--fit grid");
  if (o.draws != defaults.draws && o.predictive != "mc") without("--draws", "--predictive mc");
  const bool writes = !o.save.empty() || !o.samples_out.empty() || !o.predictive_out.empty();
  if (!line.out.empty() && !writes) without("--out", "--save, --samples-out or --predictive-out");
  if (o.samples > 0 && o.samples_out.empty() && o.predictive_out.empty())
    without("--samples", "--samples-out or --predictive-out");
  if (o.samples == 0 && !o.samples_out.empty()) without("--samples-out", "--samples");
  if (o.samples == 0 && !o.predictive_out.empty()) without("--predictive-out", "--samples");
  if (!o.predictive_out.empty() && o.test.empty()) without("--predictive-out", "--test");
  if (o.rotations != defaults.rotations && o.equivariance.empty())
    without("--rotations", "--equivariance");
  if (o.entry_band != defaults.entry_band && o.entry == "off")
    without("--entry-band", "--entry on");
  if (o.entry_band < 1 || o.entry_band > 16)
    throw UsageError(fmt::format("--entry-band: expected 1 to 16, found {}", o.entry_band));
  if (!o.equivariance.empty() && o.entry == "on")
    throw UsageError("--equivariance and --entry are two questions, ask one at a time");
  if (o.equivariance.empty() && o.entry == "off") return;
  for (const auto& [flag, is_given] :
       {std::pair("--dry-run", line.dry_run), std::pair("--save", !o.save.empty()),
        std::pair("--samples", o.samples > 0), std::pair("--fit", o.fit != "none"),
        std::pair("--bound", o.bound != "none"), std::pair("--polish", o.polish > 0),
        std::pair("--test", !o.test.empty())})
    if (is_given)
      throw UsageError(fmt::format("{}: {} makes no evidence, leave one of the two out", flag,
                                   o.entry == "on" ? "--entry" : "--equivariance"));
  if (o.entry == "on" && o.structure != "kron")
    throw UsageError(fmt::format(
        "--entry on looks at Kronecker factors: use --structure kron, found {}", o.structure));
  if (o.entry == "on" && !o.only.empty())
    throw UsageError("--only: --entry looks at all steerable layers, leave it out");
}

/// --fit and what it looks at.
void expect_tuning(const EvidenceOptions& o) {
  const bool is_regression = o.likelihood == "regression", on_data = o.fit_on == "validation";
  if (o.fit_noise == "on" && !is_regression)
    throw UsageError(
        fmt::format("--fit-noise on needs --likelihood regression, found {}", o.likelihood));
  if (!on_data) {
    if (!o.validation.empty()) without("--validation", "--fit-on validation");
    if (o.fit_temperature == "on")
      throw UsageError(
          "--fit-temperature on needs --fit-on validation: the evidence is no function of it");
    if (o.fit_noise == "on" && o.fit == "adam")
      throw UsageError(
          "--fit-noise on goes with --fit newton, grid or none, found adam; with --fit-on "
          "validation adam moves the noise too");
  } else {
    if (o.fit != "adam" && o.fit != "grid")
      throw UsageError(
          fmt::format("--fit-on validation goes with --fit adam or grid, found {}{}", o.fit,
                      o.fit == "newton" ? ", whose fixed point is that of the evidence" : ""));
    if (o.validation.empty())
      throw UsageError("--fit-on validation needs --validation FILE, data held out of --data");
    if (o.predictive == "map")
      throw UsageError(fmt::format(
          "--fit-on validation with --predictive map: the plug-in prediction does not depend on "
          "the prior precision, use {}",
          is_regression                      ? "probit"
          : o.likelihood == "classification" ? "probit, mc or bridge"
                                             : "probit or mc"));
    if (o.prior == "diagonal" && o.fit == "adam")
      throw UsageError(
          "--prior diagonal has as many precisions as there are weights, too many for "
          "--fit-on validation: use --prior layerwise");
    for (const auto& [key, value] :
         {std::pair("fit_noise", o.fit_noise), std::pair("fit_temperature", o.fit_temperature)})
      if (value == "on" && o.fit == "grid")
        throw UsageError(
            fmt::format("{} on with --fit-on validation: a grid has one dimension, use --fit adam",
                        flag_name(key)));
  }
  if (o.fit != "grid") return;
  if (o.prior_precision != EvidenceOptions().prior_precision)
    throw UsageError("--prior-precision: --fit grid has --grid-low and --grid-high in its place");
  log_grid(o.grid_low, o.grid_high, o.grid_points);
}

/// What a posterior that is there already leaves no room for.
void expect_loadable(const EvidenceRequest& request) {
  const auto& [line, o, given] = request;
  if (!o.data.empty())
    throw UsageError("--data: --load has its fit already, leave one of the two out");
  for (const auto& [key, is_given] :
       {std::pair("polish", o.polish != 0), std::pair("bound", o.bound != "none"),
        std::pair("repeat", o.repeat != 1), std::pair("budget", o.budget != 0),
        std::pair("equivariance", !o.equivariance.empty()), std::pair("entry", o.entry == "on"),
        std::pair("checks", given.count("checks") > 0 && o.checks == "on")})
    if (is_given)
      throw UsageError(fmt::format("{}: --load has no data to do it with, fit with --data instead",
                                   flag_name(key)));
  if (o.fisher == "empirical" && o.fit_noise == "on")
    throw UsageError(
        "--fit-noise on: an empirical Fisher depends on the noise, fit with --data instead");
}

void expect_bound(const EvidenceOptions& o) {
  if (o.bound == "none") {
    const EvidenceOptions defaults;
    if (o.bound_samples != defaults.bound_samples) without("--bound-samples", "--bound");
    if (o.bound_draws != defaults.bound_draws) without("--bound-draws", "--bound");
    if (o.bound_parts != defaults.bound_parts) without("--bound-parts", "--bound");
    return;
  }
  if (o.temperature != 1 || o.fit_temperature == "on")
    throw UsageError("--bound is defined at temperature 1: leave --temperature out");
  if (o.structure == "lowrank" && o.bound == "parametric")
    throw UsageError(
        "--bound parametric: the pairs of --structure lowrank bound nothing, use --bound ntk");
  if (o.bound_parts == "class" && o.likelihood != "classification")
    throw UsageError(
        fmt::format("--bound-parts class needs classes, found --likelihood {}", o.likelihood));
}

}  // namespace

void expect_combination(const EvidenceRequest& request) {
  const auto& [line, o, given] = request;
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
  expect_bound(o);
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
                                                 {"bias", o.bias, "joint"},
                                                 {"norm", o.norm, "joint"}})
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
  expect_meaning(request);
  expect_tuning(o);
  if (!o.load.empty()) expect_loadable(request);
  if (line.resume)
    throw UsageError("--resume: evidence has nothing to go on with; --repeat measures again");
}

EvidenceRequest parse_evidence_request(int argc, char** argv) {
  EvidenceRequest request;
  const auto parse = [&](EvidenceOptions& options) {
    return parse_command_line(argc, argv, "evidence",
                              "Laplace evidence, prior fit and predictive of a saved network",
                              [&](CLI::App& app) { options.visit(Flags(app, request.given)); });
  };
  auto& line = request.command_line = parse(request.options);
  if (!line.config.empty()) {
    request.options =
        from_toml<EvidenceOptions>(resolve_config(line.config, line.preset, line.set));
    const auto chosen = to_toml(request.options), defaults = to_toml(EvidenceOptions());
    for (const auto& [key, value] : chosen) {
      const auto* usual = defaults.get(key.str());
      if (toml::table{{"x", value}} != toml::table{{"x", *usual}}) request.given.emplace(key.str());
    }
    line = parse(request.options);  // again, so that flags win over the file
  } else if (!line.set.empty()) {
    throw UsageError(
        fmt::format("--set {}: there is no --config to change; use flags", line.set.front()));
  }
  expect_values(request.options);
  if (request.options.load.empty()) expect_combination(request);
  return request;
}

std::filesystem::path output_path(const EvidenceRequest& request, std::string_view key,
                                  const std::string& file) {
  const auto path = request.command_line.out / file;
  const auto fail = [&](const std::string& what) {
    throw UsageError(fmt::format("{} {}: {}", flag_name(key), path.string(), what));
  };
  if (std::filesystem::is_directory(path)) fail("is a folder, expected a file");
  const auto folder = path.has_parent_path() ? path.parent_path() : ".";
  if (!std::filesystem::is_directory(folder))
    fail(fmt::format("there is no folder {}", folder.string()));
  if (std::filesystem::exists(path) && !request.command_line.force)
    fail("the file is there already, --force replaces it");
  return path;
}

BoundOptions bound_options(const EvidenceOptions& o, const Stream& root) {
  static const std::map<std::string, Bound> bounds = {{"parametric", Bound::kParametric},
                                                      {"ntk", Bound::kNtk},
                                                      {"ntk-independent", Bound::kNtkIndependent},
                                                      {"ntk-single", Bound::kNtkSingle}};
  BoundOptions options;
  options.bound = bounds.at(o.bound);
  options.samples = o.bound_samples;
  options.parts = o.bound_draws;
  options.by_class = o.bound_parts == "class";
  options.curvature = curvature_options(o, root, false);
  options.stream = root.split("bound");
  return options;
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
  c.graphs = o.graphs == "on";
  c.sharing = o.sharing == "reduce" ? Sharing::kReduce : Sharing::kExpand;
  c.correction = o.correction == "none"     ? Correction::kNone
                 : o.correction == "sketch" ? Correction::kSketch
                                            : Correction::kTrace;
  c.bias = o.bias == "expand"  ? BiasCurvature::kExpand
           : o.bias == "joint" ? BiasCurvature::kJoint
                               : BiasCurvature::kExact;
  c.norm = o.norm == "joint" ? NormCurvature::kJoint : NormCurvature::kDiag;
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

bool needs_bases(const EvidenceOptions& o) {
  return o.checks == "on" || o.fit_on == "validation" || o.samples > 0 || !o.test.empty() ||
         !o.save.empty();
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
