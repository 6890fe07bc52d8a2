#include "experiments/run/table.h"

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

const Result& first_of(const std::vector<Run>& runs, const std::string& member) {
  for (const auto& run : runs)
    if (const auto found = run.find(member); found != run.end()) return found->second;
  throw Error(1, "no result of " + member);
}

/// Ranges of an augmentation have no sign, so that a mean over seeds is one of sizes.
double shown(const std::string& name, double value) {
  return name.starts_with("augmentation.") ? std::abs(value) : value;
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

std::vector<std::string> member_order(const std::vector<Run>& runs) {
  std::set<std::pair<int64_t, std::string>> places;
  for (const auto& run : runs)
    for (const auto& [member, result] : run) places.emplace(result.place, member);
  std::vector<std::string> order;
  for (const auto& [place, member] : places) order.push_back(member);
  return order;
}

std::string member_title(const std::vector<Run>& runs, const std::string& member) {
  for (const auto& run : runs)
    if (const auto found = run.find(member); found != run.end() && !found->second.title.empty())
      return found->second.title;
  return member;
}

std::string pathway_name(const Result& result, size_t pathway) {
  return pathway < result.pathways.size() ? result.pathways[pathway] : std::to_string(pathway);
}

std::string quality_text(const Result& r) {
  return r.is_regression() ? fmt::format("RMSE {:.4f}", r.rmse)
                           : fmt::format("{:.2f}%", 100 * r.accuracy);
}

std::string run_table(const std::string& title, const Run& run) {
  std::string out = title + "\n";
  if (const auto found = run.find("evidence");
      found != run.end() && !found->second.layers.empty()) {
    const auto& e = found->second;
    const auto map = run.find("map");
    out += fmt::format("  {:<6} {:<8} {:>14} {:>12} {:>15} {:>15}\n", "layer", "pathway",
                       "log precision", "eff. dim.", "variance share", "without (MAP)");
    for (size_t l = 0; l < e.layers.size(); ++l)
      for (size_t k = 0; k < e.path_blocks[l].size(); ++k)
        out += fmt::format(
            "  {:<6} {:<8} {:>14.2f} {:>12.1f} {:>15.3f} {:>15}\n", e.layers[l], pathway_name(e, k),
            log_precision(e, l, k), effective(e, l, k), e.shares_variance[l][k],
            map == run.end() ? "-" : fmt::format("{:.3f}", map->second.shares_variance[l][k]));
  }
  out += fmt::format("  {:<36} {:>11} {:>8} {:>12} {:>22}\n", "", "test", "NLL", "log q / N",
                     "decrement, gap");
  for (const auto& member : member_order({run})) {
    const auto& r = run.at(member);
    out += fmt::format("  {:<36} {:>11} {:>8.3f} {:>12.3f} {:>22}\n", member_title({run}, member),
                       quality_text(r), r.nll, r.per_datum(r.log_evidence), checks_text(r));
  }
  for (const auto& member : member_order({run})) {
    std::string values;
    for (const auto& [name, value] : run.at(member).symmetry)
      values += fmt::format("{}{} {:.3f}", values.empty() ? "" : ", ", name, shown(name, value));
    if (!values.empty()) out += fmt::format("  {}:\n    {}\n", member_title({run}, member), values);
  }
  return out;
}

std::string summary_table(const std::string& title, const std::vector<Run>& runs) {
  std::string out = fmt::format("### {}\n\n", title);
  const auto members = member_order(runs);
  const bool is_regression = !members.empty() && runs[0].begin()->second.is_regression();
  out += fmt::format(
      "| network | seeds | {} | test NLL | log q / N | decrement | gap | checks pass |\n"
      "|---|---|---|---|---|---|---|---|\n",
      is_regression ? "test RMSE" : "test accuracy %");
  for (const auto& member : members) {
    const auto quality = over(runs, member, [](const Result& r) {
      return r.is_regression() ? r.rmse : 100 * r.accuracy;
    });
    if (quality.count == 0) continue;
    int64_t pass = 0;
    for (const auto& run : runs)
      if (const auto found = run.find(member); found != run.end()) pass += found->second.believable;
    out += fmt::format(
        "| {} | {} | {} | {} | {} | {} | {} | {}/{} |\n", member_title(runs, member), quality.count,
        text(quality, is_regression ? 4 : 2),
        text(over(runs, member, [](const Result& r) { return r.nll; }), 3),
        text(over(runs, member, [](const Result& r) { return r.per_datum(r.log_evidence); }), 3),
        text(over(runs, member, [](const Result& r) { return r.decrement; }), 3),
        text(over(runs, member, [](const Result& r) { return r.gap; }), 2), pass, quality.count);
  }
  std::string pathways, symmetry;
  for (const auto& member : members) {
    const auto* first = &first_of(runs, member);
    for (const auto& [name, value] : first->symmetry) {
      const auto learnt = over(runs, member, [&, &wanted = name](const Result& r) {
        for (const auto& [other, number] : r.symmetry)
          if (other == wanted) return shown(other, number);
        return std::numeric_limits<double>::quiet_NaN();
      });
      symmetry +=
          fmt::format("| {} | {} | {} |\n", member_title(runs, member), name, text(learnt, 3));
    }
    for (size_t l = 0; l < first->layers.size() && first->pathways.size() > 1; ++l)
      for (size_t k = 0; k < first->path_blocks[l].size(); ++k)
        pathways += fmt::format(
            "| {} | {} | {} | {} | {} | {} |\n", member_title(runs, member), first->layers[l],
            pathway_name(*first, k),
            text(over(runs, member, [&](const Result& r) { return log_precision(r, l, k); }), 2),
            text(over(runs, member, [&](const Result& r) { return effective(r, l, k); }), 1),
            text(over(runs, member, [&](const Result& r) { return r.shares_variance[l][k]; }), 3));
  }
  if (!pathways.empty())
    out +=
        "\n| network | layer | pathway | log precision | effective dimension | variance share |\n"
        "|---|---|---|---|---|---|\n" +
        pathways;
  if (!symmetry.empty()) out += "\n| network | learnt | value |\n|---|---|---|\n" + symmetry;
  return out;
}

std::vector<TableRow> table_rows(const std::vector<Run>& runs) {
  std::vector<TableRow> rows;
  const auto add = [&](std::string name, const Spread& s) {
    if (s.count > 0) rows.push_back({std::move(name), s.mean, s.std, s.count});
  };
  for (const auto& member : member_order(runs)) {
    const auto& first = first_of(runs, member);
    if (first.is_regression()) {
      add(fmt::format("{}/rmse", member),
          over(runs, member, [](const Result& r) { return r.rmse; }));
      add(fmt::format("{}/noise", member),
          over(runs, member, [](const Result& r) { return r.noise; }));
    } else {
      add(fmt::format("{}/accuracy", member),
          over(runs, member, [](const Result& r) { return r.accuracy; }));
    }
    add(fmt::format("{}/nll", member), over(runs, member, [](const Result& r) { return r.nll; }));
    add(fmt::format("{}/log_evidence_per_datum", member),
        over(runs, member, [](const Result& r) { return r.per_datum(r.log_evidence); }));
    add(fmt::format("{}/newton_decrement", member),
        over(runs, member, [](const Result& r) { return r.decrement; }));
    add(fmt::format("{}/linearised_gap", member),
        over(runs, member, [](const Result& r) { return r.gap; }));
    add(fmt::format("{}/believable", member),
        over(runs, member, [](const Result& r) { return r.believable ? 1.0 : 0.0; }));
    for (size_t l = 0; l < first.layers.size(); ++l)
      for (size_t k = 0; first.path_blocks[l].size() > 1 && k < first.path_blocks[l].size(); ++k) {
        const auto path = fmt::format("{}/{}", first.layers[l], pathway_name(first, k));
        add(fmt::format("{}/log_precision/{}", member, path),
            over(runs, member, [&](const Result& s) { return log_precision(s, l, k); }));
        add(fmt::format("{}/effective_dimension/{}", member, path),
            over(runs, member, [&](const Result& s) { return effective(s, l, k); }));
        add(fmt::format("{}/share_variance/{}", member, path),
            over(runs, member, [&](const Result& s) { return s.shares_variance[l][k]; }));
      }
    for (size_t i = 0; i < first.symmetry.size(); ++i)
      add(fmt::format("{}/symmetry/{}", member, first.symmetry[i].first),
          over(runs, member,
               [&](const Result& s) { return shown(s.symmetry[i].first, s.symmetry[i].second); }));
  }
  return rows;
}

}  // namespace evariste
