#include "experiments/run/result.h"

#include <nlohmann/json.hpp>

#include <cmath>

namespace evariste {
namespace {

using Json = nlohmann::json;
constexpr const char* kPrefix = "result.";

double number(const Json& value) {
  return value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>();
}

}  // namespace

const BlockResult* Result::find(const std::string& name) const {
  for (const auto& block : blocks)
    if (block.name == name) return &block;
  return nullptr;
}

Result make_result(const Member& member, const Outcome& outcome, const Trainer& trainer,
                   double seconds) {
  Result r;
  r.member = member.name;
  r.title = member.title;
  r.place = member.place;
  r.pathways = pathway_types(member.network);
  r.samples = outcome.evidence.n;
  r.log_evidence = outcome.evidence.log_evidence;
  r.plain_log_evidence = outcome.plain_log_evidence;
  r.log_likelihood = outcome.evidence.log_likelihood;
  r.log_det_ratio = outcome.evidence.log_det_ratio;
  r.scatter = outcome.evidence.scatter;
  r.decrement = outcome.checks.newton_decrement;
  r.gap = outcome.checks.linearised_gap;
  r.alive = outcome.checks.alive;
  r.believable = outcome.checks.believable;
  r.accuracy = outcome.test.accuracy;
  r.nll = outcome.test.nll;
  r.ece = outcome.test.ece;
  r.rmse = outcome.test.rmse;
  r.noise = trainer.noise();
  r.seconds = seconds;
  for (const auto& b : outcome.evidence.blocks)
    r.blocks.push_back({b.name, static_cast<double>(b.parameters), std::log(b.prior_precision),
                        b.effective_dimension, b.squared_norm, b.trace_ratio});
  for (const auto& layer : trainer.layers()) {
    r.layers.push_back(layer.name);
    auto& paths = r.path_blocks.emplace_back();
    for (const auto& path : layer.paths)
      paths.push_back(path.weights.empty() ? "" : path.weights[0]->name);
  }
  r.shares_variance = outcome.shares_variance;
  r.shares_effective = outcome.shares_effective;
  const auto names = trainer.symmetry_names();
  for (size_t i = 0; i < names.size(); ++i) r.symmetry.emplace_back(names[i], outcome.symmetry[i]);
  return r;
}

void put_result(State& state, const Result& r) {
  Json blocks = Json::array();
  for (const auto& b : r.blocks)
    blocks.push_back({b.name, b.parameters, b.log_precision, b.effective, b.squared_norm,
                      std::isfinite(b.trace_ratio) ? Json(b.trace_ratio) : Json()});
  const Json json = {{"title", r.title},
                     {"place", r.place},
                     {"pathways", r.pathways},
                     {"symmetry", r.symmetry},
                     {"samples", r.samples},
                     {"numbers",
                      {r.log_evidence, r.log_likelihood, r.log_det_ratio, r.scatter, r.decrement,
                       r.gap, r.alive ? 1.0 : 0.0, r.believable ? 1.0 : 0.0, r.accuracy, r.nll,
                       r.ece, r.seconds, r.plain_log_evidence, r.rmse, r.noise}},
                     {"blocks", blocks},
                     {"layers", r.layers},
                     {"path_blocks", r.path_blocks},
                     {"shares_variance", r.shares_variance},
                     {"shares_effective", r.shares_effective}};
  state[kPrefix + r.member] = text_tensor(json.dump());
}

std::map<std::string, Result> get_results(const State& state) {
  std::map<std::string, Result> out;
  for (const auto& [name, tensor] : state) {
    if (!name.starts_with(kPrefix)) continue;
    const auto json = Json::parse(tensor_text(tensor));
    Result r;
    r.member = name.substr(std::string(kPrefix).size());
    r.title = json["title"], r.place = json["place"];
    r.pathways = json["pathways"].get<std::vector<std::string>>();
    r.symmetry = json["symmetry"].get<std::vector<std::pair<std::string, double>>>();
    r.samples = json["samples"];
    const auto& n = json["numbers"];
    r.log_evidence = number(n[0]), r.log_likelihood = number(n[1]), r.log_det_ratio = number(n[2]);
    r.scatter = number(n[3]), r.decrement = number(n[4]), r.gap = number(n[5]);
    r.alive = number(n[6]) > 0, r.believable = number(n[7]) > 0;
    r.accuracy = number(n[8]), r.nll = number(n[9]), r.ece = number(n[10]),
    r.seconds = number(n[11]), r.plain_log_evidence = number(n[12]);
    r.rmse = number(n[13]), r.noise = number(n[14]);
    for (const auto& b : json["blocks"])
      r.blocks.push_back(
          {b[0], number(b[1]), number(b[2]), number(b[3]), number(b[4]), number(b[5])});
    r.layers = json["layers"].get<std::vector<std::string>>();
    r.path_blocks = json["path_blocks"].get<std::vector<std::vector<std::string>>>();
    r.shares_variance = json["shares_variance"].get<std::vector<std::vector<double>>>();
    r.shares_effective = json["shares_effective"].get<std::vector<std::vector<double>>>();
    out[r.member] = std::move(r);
  }
  return out;
}

}  // namespace evariste
