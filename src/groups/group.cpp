#include "groups/group.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <numbers>

#include "core/expect.h"
#include "groups/planar.h"
#include "groups/spatial.h"

namespace evariste {
namespace {

constexpr double kSame = 1e-9;

bool are_same(const Element& a, const Element& b) {
  return a.rows() == b.rows() && (a - b).cwiseAbs().maxCoeff() < kSame;
}

/// "C4", "D4", "D4@45"; null for other names.
GroupPtr planar_group(std::string_view name) {
  if (name == "SO(2)") return std::make_shared<PlanarGroup>(0, false);
  if (name == "O(2)") return std::make_shared<PlanarGroup>(0, true);
  if (name.size() < 2 || (name[0] != 'C' && name[0] != 'D')) return nullptr;
  int order = 0;
  auto [end, error] = std::from_chars(name.data() + 1, name.data() + name.size(), order);
  if (error != std::errc() || order < 1 || order > 10000) return nullptr;
  double axis = PlanarGroup::kVertical;
  const auto* const last = name.data() + name.size();
  if (end != last && *end == '@' && name[0] == 'D') {
    double degrees = 0;
    const auto [stop, wrong] = std::from_chars(end + 1, last, degrees);
    if (wrong != std::errc() || stop != last) return nullptr;
    axis = degrees * std::numbers::pi / 180;
  } else if (end != last) {
    return nullptr;
  }
  return std::make_shared<PlanarGroup>(order, name[0] == 'D', axis);
}

GroupPtr spatial_group(std::string_view name) {
  using Solid = PolyhedralGroup::Solid;
  if (name == "SO(3)") return std::make_shared<RotationsOfSpace>();
  if (name == "O(3)") return std::make_shared<WithInversion>(make_group("SO(3)"));
  if (name == "Ci") return std::make_shared<WithInversion>(make_group("C1", 3));
  if (name == "T") return std::make_shared<PolyhedralGroup>(Solid::kTetrahedron);
  if (name == "O") return std::make_shared<PolyhedralGroup>(Solid::kCube);
  if (name == "I") return std::make_shared<PolyhedralGroup>(Solid::kIcosahedron);
  if (name == "Th" || name == "Oh" || name == "Ih")
    return std::make_shared<WithInversion>(make_group(name.substr(0, 1)));
  return nullptr;
}

}  // namespace

const std::vector<Element>& Group::elements() const {
  if (elements_.empty())
    throw UsageError(
        fmt::format("{} has infinitely many elements: expected a finite group", name_));
  return elements_;
}

int64_t Group::index_of(const Element& g) const {
  const auto& all = elements();
  for (size_t i = 0; i < all.size(); ++i)
    if (are_same(all[i], g)) return static_cast<int64_t>(i);
  throw UsageError(fmt::format("an element that is not one of {}", name_));
}

bool Group::contains(const Element& g) const {
  const auto& all = elements();
  return std::any_of(all.begin(), all.end(), [&](const Element& h) { return are_same(g, h); });
}

Element Group::sample(Draws& draws) const { return elements()[draws.below(elements().size())]; }

Quadrature Group::quadrature(int) const {
  const auto count = static_cast<Eigen::Index>(order());
  return {elements(), Vector::Constant(count, 1.0 / static_cast<double>(count))};
}

Irrep Group::irrep(std::string_view name) const {
  std::vector<std::string> names;
  for (const auto& irrep : irreps(largest_band())) {
    if (irrep.name == name) return irrep;
    names.push_back(irrep.name);
  }
  throw UsageError(fmt::format("irrep of {}: expected one of {}, found \"{}\"", name_,
                               fmt::join(names, " "), name));
}

GroupPtr make_group(std::string_view name, int dimension) {
  if (dimension != 0 && dimension != 2 && dimension != 3)
    throw UsageError(fmt::format("dimension of a group: expected 2 or 3, found {}", dimension));
  if (auto group = planar_group(name))
    return dimension == 3 ? std::make_shared<AboutAxis>(std::move(group)) : group;
  if (auto group = spatial_group(name)) {
    if (dimension != 2) return group;
    throw UsageError(fmt::format("group \"{}\" acts on space, not on the plane", name));
  }
  throw UsageError(
      fmt::format("group: expected CN, DN (with a number N), SO(2), O(2), T, O, I, SO(3), "
                  "Ci, Th, Oh, Ih or O(3), found \"{}\"",
                  name));
}

std::vector<GroupPtr> builtin_groups() {
  std::vector<GroupPtr> out;
  for (const char* name : {"C1", "C2", "C3",    "C4",    "C5", "C6", "C8", "C16",   "D1",   "D2",
                           "D3", "D4", "D4@45", "D4@20", "D5", "D6", "D8", "SO(2)", "O(2)", "T",
                           "O",  "I",  "SO(3)", "Ci",    "Th", "Oh", "Ih", "O(3)"})
    out.push_back(make_group(name));
  for (const char* name : {"C1", "C4", "D3", "SO(2)", "O(2)"}) out.push_back(make_group(name, 3));
  return out;
}

bool is_subgroup(const Group& subgroup, const Group& group) {
  if (subgroup.dimension() != group.dimension()) return false;
  const auto generators = subgroup.generators();
  return (group.is_finite() ? subgroup.is_finite() : true) &&
         std::all_of(generators.begin(), generators.end(),
                     [&](const Element& g) { return group.contains(g); });
}

std::vector<GroupPtr> subgroups(const Group& group) {
  std::vector<GroupPtr> candidates;
  const auto add = [&](GroupPtr candidate) {
    const bool is_there =
        std::any_of(candidates.begin(), candidates.end(),
                    [&](const GroupPtr& other) { return other->name() == candidate->name(); });
    if (!is_there && is_subgroup(*candidate, group)) candidates.push_back(std::move(candidate));
  };
  const auto* planar = dynamic_cast<const PlanarGroup*>(&group);
  if (planar && planar->rotations() > 0) {
    const int rotations = planar->rotations();
    for (int n = 1; n <= rotations; ++n) {
      if (rotations % n != 0) continue;
      add(std::make_shared<PlanarGroup>(n, false));
      if (!planar->has_reflections()) continue;
      // Turns in the group move the mirrors two places on: two classes where n keeps every other.
      for (int shift = 0; shift < ((rotations / n) % 2 == 0 ? 2 : 1); ++shift)
        add(std::make_shared<PlanarGroup>(n, true,
                                          planar->axis() + std::numbers::pi * shift / rotations));
    }
  } else {
    for (const int n : {1, 2, 3, 4, 5, 6, 8, 12, 16})
      for (const char kind : {'C', 'D'})
        add(make_group(fmt::format("{}{}", kind, n), group.dimension()));
    for (const char* name : {"SO(2)", "O(2)"}) add(make_group(name, group.dimension()));
  }
  if (group.dimension() == 3)
    for (const char* name : {"Ci", "T", "O", "I", "Th", "Oh", "Ih", "SO(3)", "O(3)"})
      add(make_group(name));
  std::vector<std::pair<int64_t, GroupPtr>> by_subgroups;  // how many of the others it contains
  for (const auto& g : candidates)
    by_subgroups.emplace_back(
        std::count_if(candidates.begin(), candidates.end(),
                      [&](const GroupPtr& other) { return is_subgroup(*other, *g); }),
        g);
  std::stable_sort(by_subgroups.begin(), by_subgroups.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::transform(by_subgroups.begin(), by_subgroups.end(), candidates.begin(),
                 [](const auto& entry) { return entry.second; });
  return candidates;
}

}  // namespace evariste
