#include "experiments/run/findings.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "experiments/run/tasks.h"

namespace evariste {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kClamp = 19.5;  // log precision: a pathway there has been pruned (bound 20)

std::vector<double> ranks(const std::vector<double>& values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] < values[b]; });
  std::vector<double> rank(values.size());
  for (size_t begin = 0, end = 0; begin < order.size(); begin = end) {
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    const double mean = 0.5 * static_cast<double>(begin + end - 1);
    for (size_t i = begin; i < end; ++i) rank[order[i]] = mean;
  }
  return rank;
}

const Result* find(const Run& run, const std::string& member) {
  const auto found = run.find(member);
  return found == run.end() ? nullptr : &found->second;
}

/// Share of the pathway `type` in each layer that has it.
std::vector<double> shares_of(const Result& r, std::string_view type) {
  const auto found = std::find(r.pathways.begin(), r.pathways.end(), type);
  std::vector<double> out;
  if (found == r.pathways.end()) return out;
  const auto k = static_cast<size_t>(found - r.pathways.begin());
  for (const auto& layer : r.shares_variance)
    if (layer.size() > 1 && k < layer.size()) out.push_back(layer[k]);
  return out;
}

/// Largest |delta |theta|^2 / gamma - 1| over the blocks that are not pruned (precision at its
/// bound, or less than half an effective parameter): 0 at a joint optimum of weights and precisions
/// (MacKay's fixed point).
std::pair<double, std::string> distance_from_fixed_point(const Result& r) {
  std::pair<double, std::string> worst{0, "none"};
  for (const auto& b : r.blocks) {
    if (b.log_precision >= kClamp || b.effective < 0.5) continue;
    const double d = std::abs(std::exp(b.log_precision) * b.squared_norm / b.effective - 1);
    if (d > worst.first) worst = {d, b.name};
  }
  return worst;
}

std::string share_text(const std::vector<double>& shares) {
  std::string out;
  for (const double s : shares) out += fmt::format("{}{:.3f}", out.empty() ? "" : " ", s);
  return out;
}

/// A claim and, seed by seed, whether it holds and by what number.
class Claim {
 public:
  explicit Claim(std::string text) : text_(std::move(text)) {}
  void add(int64_t seed, bool holds, const std::string& numbers) {
    ++seeds_;
    hold_ += holds;
    numbers_ += fmt::format("{}seed {}{}: {}", numbers_.empty() ? "" : "; ", seed,
                            holds ? "" : " NO", numbers);
  }
  std::string markdown() const {
    if (seeds_ == 0) return "";
    return fmt::format("- {} **{} of {}** ({}).\n", text_, hold_, seeds_, numbers_);
  }

 private:
  std::string text_, numbers_;
  int64_t seeds_ = 0, hold_ = 0;
};

std::string all_trainings(const std::vector<Run>& runs, int64_t first_seed) {
  std::string out =
      "| seed | network | test | test NLL | log q/N | plain KFAC | decrement | gap | checks "
      "| "
      "conv share per layer | seconds |\n|---|---|---|---|---|---|---|---|---|---|---|\n";
  for (size_t s = 0; s < runs.size(); ++s)
    for (const auto& member : member_order(runs)) {
      const auto* r = find(runs[s], member);
      if (!r) continue;
      out += fmt::format(
          "| {} | {} | {} | {:.3f} | {:.3f} | {:.3f} | {:.3f} | {:+.2f} | {} | {} | {:.0f} |\n",
          first_seed + static_cast<int64_t>(s), member_title(runs, member), quality_text(*r),
          r->nll, r->per_datum(r->log_evidence), r->per_datum(r->plain_log_evidence), r->decrement,
          r->gap, r->believable ? "pass" : (r->alive ? "FAIL" : "dead"),
          share_text(shares_of(*r, "conv")), r->seconds);
    }
  return out + "\n";
}

/// The ranking by evidence beside the ranking by test NLL.
std::string ranking(const std::vector<Run>& runs) {
  std::vector<double> corrected, plain, nll, all_corrected, all_nll;
  size_t best = 0, best_nll = 0;
  std::vector<std::string> names;
  for (const auto& run : runs)
    for (const auto& [member, r] : run) {
      all_corrected.push_back(r.log_evidence);
      all_nll.push_back(-r.nll);
      if (!r.believable) continue;
      corrected.push_back(r.log_evidence);
      plain.push_back(r.plain_log_evidence);
      nll.push_back(-r.nll);
      names.push_back(member);
      if (corrected.back() > corrected[best]) best = corrected.size() - 1;
      if (nll.back() > nll[best_nll]) best_nll = nll.size() - 1;
    }
  if (corrected.size() < 3) return "";
  return fmt::format(
      "- Rank correlation of evidence and test log-likelihood: {:.2f} trace-corrected and {:.2f} "
      "plain over the {} trainings whose checks pass, {:.2f} over all {}. Of those that pass, the "
      "highest evidence ({}) has test NLL {:.3f}; the lowest test NLL is {:.3f} ({}).\n",
      rank_correlation(corrected, nll), rank_correlation(plain, nll), corrected.size(),
      rank_correlation(all_corrected, all_nll), all_corrected.size(),
      member_title(runs, names[best]), -nll[best], -nll[best_nll],
      member_title(runs, names[best_nll]));
}

/// Strict convolution of the seed, or of the first seed that trained it.
const Result* strict_conv(const std::vector<Run>& runs, size_t seed) {
  if (const auto* own = find(runs[seed], "conv")) return own;
  for (const auto& run : runs)
    if (const auto* other = find(run, "conv")) return other;
  return nullptr;
}

std::string digit_claims(const std::vector<Run>& runs, int64_t first_seed) {
  Claim fit("FC+CONV by evidence within 1 point and 0.05 nats of strict CONV:");
  Claim conv("CONV variance share at least 0.95 in every layer:");
  for (size_t s = 0; s < runs.size(); ++s) {
    const auto seed = first_seed + static_cast<int64_t>(s);
    const auto* e = find(runs[s], "evidence");
    const auto* strict = strict_conv(runs, s);
    if (!e) continue;
    if (strict) {
      const double points = 100 * (e->accuracy - strict->accuracy), nats = e->nll - strict->nll;
      fit.add(seed, points >= -1 && nats <= 0.05, fmt::format("{:+.2f}, {:+.3f}", points, nats));
    }
    const auto shares = shares_of(*e, "conv");
    if (!shares.empty())
      conv.add(seed, *std::min_element(shares.begin(), shares.end()) >= 0.95, share_text(shares));
  }
  return fit.markdown() + conv.markdown();
}

std::string quadrant_claims(const std::vector<Run>& runs, const std::vector<Run>& digit,
                            int64_t first_seed) {
  Claim fit("At least 90 % test accuracy:");
  Claim layers("CONV share at least 0.95 in the first two layers, FC at least 0.25 in the last:");
  Claim bound("Strict CONV at most a quarter of its digit accuracy, + 1.3 points of sampling:");
  for (size_t s = 0; s < runs.size(); ++s) {
    const auto seed = first_seed + static_cast<int64_t>(s);
    const auto* e = find(runs[s], "evidence");
    if (!e) continue;
    fit.add(seed, e->accuracy >= 0.9, fmt::format("{:.2f}", 100 * e->accuracy));
    const auto conv = shares_of(*e, "conv"), fc = shares_of(*e, "fc");
    if (conv.size() > 2 && !fc.empty())
      layers.add(seed, conv[0] >= 0.95 && conv[1] >= 0.95 && fc.back() >= 0.25,
                 fmt::format("{}, FC {:.3f}", share_text({conv[0], conv[1]}), fc.back()));
    const auto* strict = find(runs[s], "conv");
    const auto* same = s < digit.size() ? find(digit[s], "conv") : nullptr;
    if (strict && same)
      bound.add(
          seed, strict->accuracy <= 0.25 * same->accuracy + 0.013,
          fmt::format("{:.2f} against {:.2f}", 100 * strict->accuracy, 25 * same->accuracy + 1.3));
  }
  return fit.markdown() + layers.markdown() + bound.markdown();
}

std::string common_claims(const std::vector<Run>& runs, int64_t first_seed) {
  Claim better("Lower test NLL by evidence than with the same matched prior held fixed:");
  Claim fixed("delta |theta|^2 within 5 % of gamma in every block not pruned, evidence:");
  Claim sgd("The checks of the SGD run fail:");
  Claim adds("CONV shares, evidence minus the matched prior held fixed (largest in size >= 0.05):");
  for (size_t s = 0; s < runs.size(); ++s) {
    const auto seed = first_seed + static_cast<int64_t>(s);
    const auto *e = find(runs[s], "evidence"), *map = find(runs[s], "map"),
               *first_order = find(runs[s], "sgd");
    if (e && map) {
      better.add(seed, e->nll < map->nll, fmt::format("{:+.3f}", e->nll - map->nll));
      const auto with = shares_of(*e, "conv"), without = shares_of(*map, "conv");
      std::string difference;
      double largest = 0;
      for (size_t l = 0; l < with.size() && l < without.size(); ++l) {
        difference += fmt::format("{}{:+.3f}", l ? " " : "", with[l] - without[l]);
        largest = std::max(largest, std::abs(with[l] - without[l]));
      }
      if (!with.empty()) adds.add(seed, largest >= 0.05, difference);
    }
    if (e) {
      const auto [distance, block] = distance_from_fixed_point(*e);
      fixed.add(seed, distance < 0.05, fmt::format("{:.3f} at {}", distance, block));
    }
    if (first_order)
      sgd.add(seed, !first_order->believable,
              fmt::format("{:.3f}, {:+.2f}", first_order->decrement, first_order->gap));
  }
  return better.markdown() + adds.markdown() + fixed.markdown() + sgd.markdown();
}

}  // namespace

double rank_correlation(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size() || a.size() < 3) return kNaN;
  const auto x = ranks(a), y = ranks(b);
  const double mean = 0.5 * static_cast<double>(a.size() - 1);
  double xy = 0, xx = 0, yy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - mean) * (y[i] - mean);
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
  }
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : kNaN;
}

std::string findings(const Runs& runs, const std::string& set, int64_t first_seed) {
  std::string out;
  const auto digit = runs.find("digit");
  for (const auto& [task, of_task] : runs) {
    out += fmt::format("### {}, training by training\n\n", task_title(task, set)) +
           all_trainings(of_task, first_seed);
    if (task == "digit") out += digit_claims(of_task, first_seed);
    if (task == "quadrant")
      out += quadrant_claims(of_task, digit == runs.end() ? std::vector<Run>() : digit->second,
                             first_seed);
    out += common_claims(of_task, first_seed) + ranking(of_task) + "\n";
  }
  return out;
}

}  // namespace evariste
