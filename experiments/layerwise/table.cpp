#include "layerwise/table.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace evariste {
namespace {

std::string checks_text(const Result& r) {
  return fmt::format("{:.3f} {:+.2f} {}", r.decrement, r.gap,
                     !r.alive ? "dead" : (r.believable ? "pass" : "FAIL"));
}

struct Spread {
  double mean = 0, std = 0;
  int64_t count = 0;
};

Spread spread(const std::vector<double>& values) {
  Spread s;
  s.count = static_cast<int64_t>(values.size());
  for (const double v : values) s.mean += v / static_cast<double>(values.size());
  for (const double v : values) s.std += (v - s.mean) * (v - s.mean);
  s.std = s.count > 1 ? std::sqrt(s.std / static_cast<double>(s.count - 1))
                      : std::numeric_limits<double>::quiet_NaN();
  return s;
}

std::string text(const Spread& s, int digits) {
  if (s.count == 0) return "-";
  if (s.count == 1) return fmt::format("{:.{}f}", s.mean, digits);
  return fmt::format("{:.{}f} ± {:.{}f}", s.mean, digits, s.std, digits);
}

template <class Get>
Spread over(const std::vector<Run>& runs, const std::string& member, const Get& get) {
  std::vector<double> values;
  for (const auto& run : runs)
    if (const auto found = run.find(member); found != run.end())
      values.push_back(get(found->second));
  return spread(values);
}

double log_precision(const Result& r, size_t layer, size_t path) {
  const auto* block = r.find(r.path_blocks[layer][path]);
  return block ? block->log_precision : std::numeric_limits<double>::quiet_NaN();
}

double effective(const Result& r, size_t layer, size_t path) {
  const auto* block = r.find(r.path_blocks[layer][path]);
  return block ? block->effective : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

const std::vector<std::string>& member_order() {
  static const std::vector<std::string> order = {"evidence", "map",      "conv", "fc",
                                                 "unit",     "map-unit", "sgd"};
  return order;
}

std::string member_title(const std::string& member) {
  static const std::map<std::string, std::string> titles = {
      {"evidence", "FC+CONV, evidence"},         {"map", "FC+CONV, matched prior held fixed"},
      {"conv", "strict CONV, evidence"},         {"fc", "strict FC, evidence"},
      {"unit", "FC+CONV, evidence, unit start"}, {"map-unit", "FC+CONV, unit prior held fixed"},
      {"sgd", "FC+CONV, evidence, SGD"}};
  const auto found = titles.find(member);
  return found == titles.end() ? member : found->second;
}

std::string run_table(const std::string& task, const Run& run,
                      const std::vector<std::string>& pathways) {
  std::string out = fmt::format("{}-MNIST\n", task);
  if (const auto found = run.find("evidence"); found != run.end()) {
    const auto& e = found->second;
    const auto map = run.find("map");
    out += fmt::format("  {:<6} {:<8} {:>14} {:>12} {:>15} {:>15}\n", "layer", "pathway",
                       "log precision", "eff. dim.", "variance share", "without (MAP)");
    for (size_t l = 0; l < e.layers.size(); ++l)
      for (size_t k = 0; k < e.path_blocks[l].size(); ++k)
        out += fmt::format(
            "  {:<6} {:<8} {:>14.2f} {:>12.1f} {:>15.3f} {:>15}\n", e.layers[l],
            k < pathways.size() ? pathways[k] : "", log_precision(e, l, k), effective(e, l, k),
            e.shares_variance[l][k],
            map == run.end() ? "-" : fmt::format("{:.3f}", map->second.shares_variance[l][k]));
  }
  out += fmt::format("  {:<36} {:>9} {:>8} {:>12} {:>22}\n", "", "accuracy", "NLL", "log q / N",
                     "decrement, gap");
  for (const auto& member : member_order()) {
    const auto found = run.find(member);
    if (found == run.end()) continue;
    const auto& r = found->second;
    out += fmt::format("  {:<36} {:>8.2f}% {:>8.3f} {:>12.3f} {:>22}\n", member_title(member),
                       100 * r.accuracy, r.nll, r.per_datum(r.log_evidence), checks_text(r));
  }
  return out;
}

std::string summary_table(const std::string& task, const std::vector<Run>& runs,
                          const std::vector<std::string>& pathways) {
  std::string out = fmt::format("### {}-MNIST\n\n", task);
  out +=
      "| network | seeds | test accuracy % | test NLL | log q / N | decrement | gap | checks pass "
      "|";
  std::string rule = "\n|---|---|---|---|---|---|---|---|";
  out += rule + "\n";
  for (const auto& member : member_order()) {
    const auto accuracy = over(runs, member, [](const Result& r) { return 100 * r.accuracy; });
    if (accuracy.count == 0) continue;
    int64_t pass = 0;
    for (const auto& run : runs)
      if (const auto found = run.find(member); found != run.end()) pass += found->second.believable;
    out += fmt::format(
        "| {} | {} | {} | {} | {} | {} | {} | {}/{} |\n", member_title(member), accuracy.count,
        text(accuracy, 2), text(over(runs, member, [](const Result& r) { return r.nll; }), 3),
        text(over(runs, member, [](const Result& r) { return r.per_datum(r.log_evidence); }), 3),
        text(over(runs, member, [](const Result& r) { return r.decrement; }), 3),
        text(over(runs, member, [](const Result& r) { return r.gap; }), 2), pass, accuracy.count);
  }
  out +=
      "\n| network | layer | pathway | log precision | effective dimension | variance share |\n"
      "|---|---|---|---|---|---|\n";
  for (const char* member : {"evidence", "map", "unit", "map-unit", "sgd"}) {
    const Result* first = nullptr;
    for (const auto& run : runs)
      if (const auto found = run.find(member); found != run.end() && !first) first = &found->second;
    if (!first) continue;
    for (size_t l = 0; l < first->layers.size(); ++l)
      for (size_t k = 0; k < first->path_blocks[l].size(); ++k)
        out += fmt::format(
            "| {} | {} | {} | {} | {} | {} |\n", member_title(member), first->layers[l],
            k < pathways.size() ? pathways[k] : "",
            text(over(runs, member, [&](const Result& r) { return log_precision(r, l, k); }), 2),
            text(over(runs, member, [&](const Result& r) { return effective(r, l, k); }), 1),
            text(over(runs, member, [&](const Result& r) { return r.shares_variance[l][k]; }), 3));
  }
  return out;
}

std::vector<TableRow> table_rows(const std::vector<Run>& runs,
                                 const std::vector<std::string>& pathways) {
  std::vector<TableRow> rows;
  const auto add = [&](std::string name, const Spread& s) {
    if (s.count > 0) rows.push_back({std::move(name), s.mean, s.std, s.count});
  };
  for (const auto& member : member_order()) {
    add(fmt::format("{}/accuracy", member),
        over(runs, member, [](const Result& r) { return r.accuracy; }));
    add(fmt::format("{}/nll", member), over(runs, member, [](const Result& r) { return r.nll; }));
    add(fmt::format("{}/log_evidence_per_datum", member),
        over(runs, member, [](const Result& r) { return r.per_datum(r.log_evidence); }));
    add(fmt::format("{}/newton_decrement", member),
        over(runs, member, [](const Result& r) { return r.decrement; }));
    add(fmt::format("{}/linearised_gap", member),
        over(runs, member, [](const Result& r) { return r.gap; }));
    add(fmt::format("{}/believable", member),
        over(runs, member, [](const Result& r) { return r.believable ? 1.0 : 0.0; }));
    for (const auto& run : runs) {
      const auto found = run.find(member);
      if (found == run.end()) continue;
      const auto& r = found->second;
      for (size_t l = 0; l < r.layers.size(); ++l)
        for (size_t k = 0; r.path_blocks[l].size() > 1 && k < r.path_blocks[l].size(); ++k) {
          const auto path = fmt::format("{}/{}", r.layers[l],
                                        k < pathways.size() ? pathways[k] : std::to_string(k));
          add(fmt::format("{}/log_precision/{}", member, path),
              over(runs, member, [&](const Result& s) { return log_precision(s, l, k); }));
          add(fmt::format("{}/effective_dimension/{}", member, path),
              over(runs, member, [&](const Result& s) { return effective(s, l, k); }));
          add(fmt::format("{}/share_variance/{}", member, path),
              over(runs, member, [&](const Result& s) { return s.shares_variance[l][k]; }));
        }
      break;
    }
  }
  return rows;
}

}  // namespace evariste
