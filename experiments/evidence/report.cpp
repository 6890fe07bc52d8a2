#include "experiments/evidence/report.h"

#include <nlohmann/json.hpp>
#include <numbers>

#include "groups/planar.h"

namespace evariste {
namespace {

using Json = nlohmann::ordered_json;  // a NaN is written as null

Json block_json(const BlockEvidence& block) {
  return {{"name", block.name},
          {"parameters", block.parameters},
          {"prior_precision", block.prior_precision},
          {"log_det_ratio", block.log_det_ratio},
          {"scatter", block.scatter},
          {"effective_dimension", block.effective_dimension},
          {"evidence_gradient", block.evidence_gradient},
          {"trace_ratio", block.trace_ratio}};
}

Json test_json(const Metrics& metrics, bool is_regression) {
  if (is_regression) return {{"nll", metrics.nll}, {"rmse", metrics.rmse}};
  return {{"accuracy", metrics.accuracy}, {"nll", metrics.nll}, {"ece", metrics.ece}};
}

Json rows_json(const Tensor& matrix) {
  auto rows = Json::array();
  const auto data = matrix.cpu().to(torch::kFloat64).contiguous();
  for (int64_t i = 0; i < data.size(0); ++i) {
    const auto* row = data.data_ptr<double>() + i * data.size(1);
    rows.push_back(std::vector<double>(row, row + data.size(1)));
  }
  return rows;
}

/// What --fit looked at: "evidence" (nats) or "validation" (mean NLL).
Json tuning_json(const EvidenceOptions& options, const EvidenceResult& result) {
  Json json = {{"fit", options.fit}, {"objective", options.fit_on}, {"value", nullptr}};
  if (!result.tuning) {
    json["value"] = result.evidence.log_evidence;
    return json;
  }
  const auto& tuning = *result.tuning;
  json["value"] = tuning.path[tuning.best].value;
  json["best"] = tuning.best;
  if (options.fit == "grid") json["at_edge"] = tuning.at_edge();
  json["path"] = Json::array();
  for (const auto& point : tuning.path) {
    Json entry = {{"prior_precision", point.precisions}, {"value", point.value}};
    if (options.fit == "grid") entry["prior_precision"] = point.precisions.front();
    if (options.fit_noise == "on") entry["noise"] = point.noise;
    if (options.fit_temperature == "on") entry["temperature"] = point.temperature;
    json["path"].push_back(std::move(entry));
  }
  return json;
}

std::string tuning_text(const EvidenceOptions& options, const Tuning& tuning) {
  const auto& best = tuning.path[tuning.best];
  return fmt::format("{} {:.8g}, the best of {}{}\n",
                     options.fit_on == "validation" ? "validation nll" : "log evidence", best.value,
                     tuning.path.size(),
                     options.fit == "grid" && tuning.at_edge()
                         ? " at the edge of the grid: widen --grid-low or --grid-high"
                         : "");
}

/// Collects the options as JSON under the names of their flags' keys.
struct ToJson {
  Json& json;
  template <class Value>
  void operator()(std::string_view key, const Value& value, std::string_view,
                  std::initializer_list<std::string_view> = {}) {
    json[std::string(key)] = value;
  }
};

double megabytes(int64_t bytes) { return 1e-6 * static_cast<double>(bytes); }

std::string seconds_text(std::string_view name, const std::vector<double>& seconds) {
  return fmt::format("{} {:.3g}", name, *std::min_element(seconds.begin(), seconds.end()));
}

}  // namespace

std::string evidence_json(const EvidenceOptions& options, const EvidenceResult& result,
                          const EvidencePlan& plan) {
  const auto& e = result.evidence;
  const auto& likelihood = *result.posterior.likelihood;
  Json json = {{"n", e.n},
               {"log_likelihood", e.log_likelihood},
               {"log_det_ratio", e.log_det_ratio},
               {"scatter", e.scatter},
               {"log_evidence", e.log_evidence},
               {"blocks", Json::array()},
               {"checks", nullptr},
               {"test", nullptr},
               {"test_function_variance", nullptr}};
  for (const auto& block : e.blocks) json["blocks"].push_back(block_json(block));
  if (result.checks)
    json["checks"] = {{"newton_decrement", result.checks->newton_decrement},
                      {"linearised_gap", result.checks->linearised_gap},
                      {"believable", result.checks->believable}};
  if (result.bound)
    json["bound"] = {{"log_evidence", result.bound->log_evidence},
                     {"log_likelihood", result.bound->log_likelihood},
                     {"log_det_ratio", result.bound->log_det_ratio},
                     {"scatter", result.bound->scatter},
                     {"spread", result.bound->spread},
                     {"parts", result.bound->parts},
                     {"seconds", result.bound->seconds}};
  if (result.test) {
    json["test"] = test_json(*result.test, likelihood.is_regression());
    json["test_function_variance"] = rows_json(result.outputs.covariance.diagonal(0, 1, 2));
  }
  if (options.rank_tolerance > 0)
    json["rank"] = {{"columns", result.posterior.fit.columns},
                    {"dropped", result.posterior.fit.dropped}};
  if (options.fit_noise == "on") json["noise"] = std::sqrt(1 / likelihood.curvature_scale());
  if (options.fit_temperature == "on") json["temperature"] = result.posterior.temperature;
  if (options.fit != "none") json["tuning"] = tuning_json(options, result);
  json["seconds"] = {{"fit", result.seconds.fit},
                     {"eigen", result.seconds.eigen},
                     {"prior", result.seconds.prior},
                     {"predict", result.seconds.predict}};
  json["peak_rss_bytes"] = peak_resident_bytes();
  json["plan"] = {{"peak_bytes", plan.peak_bytes}};
  return json.dump();
}

std::string evidence_table(const EvidenceOptions& options, const EvidenceResult& result,
                           const EvidencePlan& plan) {
  const auto& e = result.evidence;
  const auto& likelihood = *result.posterior.likelihood;
  size_t width = 5;
  for (const auto& block : e.blocks) width = std::max(width, block.name.size());
  std::string text = fmt::format("{:{}} {:>10} {:>11} {:>11} {:>11} {:>11} {:>11} {:>8}\n", "block",
                                 width, "parameters", "precision", "effective", "log det",
                                 "scatter", "gradient", "trace");
  for (const auto& b : e.blocks)
    text += fmt::format("{:{}} {:>10} {:>11.4g} {:>11.4g} {:>11.4g} {:>11.4g} {:>11.3g} {:>8.3g}\n",
                        b.name, width, b.parameters, b.prior_precision, b.effective_dimension,
                        b.log_det_ratio, b.scatter, b.evidence_gradient, b.trace_ratio);
  const auto n = static_cast<double>(e.n);
  text += fmt::format("\nlog evidence {:.8g} nats of {} samples ({:.4g} each) = ", e.log_evidence,
                      e.n, e.log_evidence / n);
  text += fmt::format(
      "log-likelihood {:.6g}{} - 1/2 (log det {:.6g} + scatter {:.6g})\n", e.log_likelihood,
      result.posterior.temperature == 1 ? "" : fmt::format("/{}", result.posterior.temperature),
      e.log_det_ratio, e.scatter);
  text += fmt::format("effective dimension {:.4g}\n", e.effective_dimension());
  if (options.rank_tolerance > 0)
    text += fmt::format("columns per sample {:.3g}, dropped {:.2g} of the output curvature\n",
                        result.posterior.fit.columns, result.posterior.fit.dropped);
  if (options.fit_noise == "on")
    text += fmt::format("noise {:.6g}\n", std::sqrt(1 / likelihood.curvature_scale()));
  if (options.fit_temperature == "on")
    text += fmt::format("temperature {:.6g}\n", result.posterior.temperature);
  if (result.tuning) text += tuning_text(options, *result.tuning);
  if (result.checks)
    text +=
        fmt::format("believable: {} (Newton decrement {:.3g}, linearised gap {:.3g} per sample)\n",
                    result.checks->believable ? "yes" : "no", result.checks->newton_decrement,
                    result.checks->linearised_gap);
  if (result.bound)
    text += fmt::format("{} bound {:.8g} nats from {} parts of {} samples, {:.3g} s\n",
                        options.bound, result.bound->log_evidence, result.bound->parts,
                        options.bound_samples, result.bound->seconds);
  if (result.test && likelihood.is_regression())
    text += fmt::format("test: nll {:.6g}, rmse {:.6g}\n", result.test->nll, result.test->rmse);
  else if (result.test)
    text += fmt::format("test: accuracy {:.4f}, nll {:.6g}, ece {:.4g}\n", result.test->accuracy,
                        result.test->nll, result.test->ece);
  text += fmt::format(
      "seconds: {}, {}, {}, {}; memory {:.0f} MB (planned {:.0f})\n",
      seconds_text("fit", result.seconds.fit), seconds_text("eigen", result.seconds.eigen),
      seconds_text("prior", result.seconds.prior), seconds_text("predict", result.seconds.predict),
      megabytes(peak_resident_bytes()), megabytes(plan.peak_bytes));
  return text;
}

std::string plan_json(EvidenceOptions options, const EvidencePlan& plan) {
  Json json = {{"config", Json::object()},
               {"plan", {{"peak_bytes", plan.peak_bytes}, {"seconds", plan.seconds}}}};
  for (const auto& stage : plan.curvature.stages)
    json["plan"]["stages"][stage.name] = {{"bytes", stage.bytes}, {"flops", stage.flops}};
  options.visit(ToJson{json["config"]});
  return json.dump();
}

std::string plan_text(EvidenceOptions options, const EvidencePlan& plan) {
  auto text =
      fmt::format("{}\n# needs about {:.0f} MB and {} a repeat\n", to_text(to_toml(options)),
                  megabytes(plan.peak_bytes), duration_text(plan.seconds));
  for (const auto& stage : plan.curvature.stages) {
    text += fmt::format("# {:<10} {:10.3g} MB", stage.name, 1e-6 * stage.bytes);
    if (stage.flops > 0) text += fmt::format(" {:10.3g} GFLOP", 1e-9 * stage.flops);
    text += "\n";
  }
  return text;
}

namespace {

/// How far an element of O(2) or O(3) turns, and whether it has a determinant of -1: in the plane a
/// reflection in turn, in space the inversion.
std::pair<double, bool> degrees_of(const Element& g) {
  constexpr double kDegrees = 180 / std::numbers::pi;
  if (g.rows() == 2) {
    const auto [angle, reflects] = PlanarGroup(0, true).angle_of(g);
    return {kDegrees * angle, reflects};
  }
  const bool reflects = g.determinant() < 0;
  const double trace = reflects ? -g.trace() : g.trace();
  return {kDegrees * std::acos(std::clamp(0.5 * (trace - 1), -1.0, 1.0)), reflects};
}

}  // namespace

std::string equivariance_json(const std::string& group, const EquivarianceErrors& errors) {
  auto elements = Json::array(), layers = Json::array();
  for (const auto& g : errors.elements) {
    const auto [degrees, reflects] = degrees_of(g);
    elements.push_back({{"degrees", degrees}, {"reflects", reflects}});
    for (Eigen::Index row = 0; g.rows() == 3 && row < 3; ++row)
      elements.back()["matrix"].push_back({g(row, 0), g(row, 1), g(row, 2)});
  }
  const auto error = rows_json(errors.error), floor = rows_json(errors.floor);
  for (size_t i = 0; i < errors.layers.size(); ++i)
    layers.push_back({{"name", errors.layers[i]}, {"error", error[i]}, {"floor", floor[i]}});
  return Json{{"equivariance", {{"group", group}, {"elements", elements}, {"layers", layers}}}}
      .dump();
}

std::string equivariance_table(const std::string& group, const EquivarianceErrors& errors) {
  const bool is_planar = errors.elements.empty() || errors.elements[0].rows() == 2;
  auto text = fmt::format(
      "Equivariance to {}: ||f(h x) - h f(x)|| / ||f(x)|| of the layers up to each, and the same "
      "for\n"
      "images turned by h and back (floor: what the grid alone costs). Degrees, m with {}.\n\n"
      "  {:<8} {:>10} {:>10} {:>16} {:>12}\n",
      group, is_planar ? "a mirror" : "the inversion", "layer", "mean", "largest", "at",
      "floor there");
  for (size_t i = 0; i < errors.layers.size(); ++i) {
    const auto row = errors.error[static_cast<int64_t>(i)];
    const auto known = row.isnan().logical_not();
    if (!known.any().item<bool>()) {
      text += fmt::format("  {:<8} {:>10}\n", errors.layers[i], "-");
      continue;
    }
    const auto at = torch::where(known, row, torch::full_like(row, -1)).argmax().item<int64_t>();
    const auto [degrees, reflects] = degrees_of(errors.elements[static_cast<size_t>(at)]);
    text +=
        fmt::format("  {:<8} {:>10.2e} {:>10.2e} {:>15.1f}{} {:>12.2e}\n", errors.layers[i],
                    row.masked_select(known).mean().item<double>(), row[at].item<double>(), degrees,
                    reflects ? "m" : " ", errors.floor[static_cast<int64_t>(i)][at].item<double>());
  }
  return text;
}

std::string entry_json(const std::vector<EntryResult>& results) {
  auto blocks = Json::array();
  for (const auto& r : results)
    blocks.push_back({{"layer", r.block.layer},
                      {"irrep", r.block.irrep},
                      {"block", r.test.name},
                      {"kept", r.block.is_kept},
                      {"parameters", r.parameters},
                      {"ratio", r.test.ratio()},
                      {"gain", r.test.gain},
                      {"gain_per_sample", r.test.gain / r.samples},
                      {"best_precision", r.test.best_precision}});
  return Json{{"entry", blocks}}.dump();
}

std::string entry_table(const std::vector<EntryResult>& results) {
  auto text = fmt::format(
      "Entry test: kernels that a strictly equivariant layer leaves out, by the irrep that the "
      "group turns\nthem by. They want to enter where |g|^2 / tr F is above 1; gain of the "
      "evidence then, nats per sample.\nThe kernels it keeps (*) say whether the network is at a "
      "mode: far below 1 there.\n\n  {:<8} {:<8} {:>9} {:>12} {:>12} {:>12}\n",
      "layer", "irrep", "weights", "|g|^2 / tr F", "gain", "precision");
  for (const auto& r : results)
    text += fmt::format(
        "  {:<8} {:<8} {:>9} {:>12.3g} {:>12} {:>12}\n", r.block.layer,
        r.block.irrep + (r.block.is_kept ? "*" : ""), r.parameters, r.test.ratio(),
        r.block.is_kept ? "" : fmt::format("{:.3g}", r.test.gain / r.samples),
        r.block.is_kept || r.test.gain <= 0 ? "" : fmt::format("{:.3g}", r.test.best_precision));
  return text;
}

}  // namespace evariste
