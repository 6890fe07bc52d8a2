#include "nn/field_type.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <numeric>

#include "core/error.h"
#include "groups/symmetric_square.h"

namespace evariste {
namespace {

/// "a", "b^2", "[c+d]^2" of "a+b^2+[c+d]^2".
std::vector<std::string> terms_of(const std::string& name) {
  std::vector<std::string> out = {""};
  int depth = 0;
  for (const char c : name) {
    depth += (c == '[') - (c == ']');
    if (c == '+' && depth == 0)
      out.emplace_back();
    else
      out.back().push_back(c);
  }
  return out;
}

Representation representation_named(const GroupPtr& group, const std::string& name) {
  const auto terms = terms_of(name);
  if (terms.size() > 1) {
    std::vector<Representation> parts;
    for (const auto& term : terms) parts.push_back(representation_named(group, term));
    return direct_sum(parts);
  }
  if (name.ends_with("^2")) {
    auto base = name.substr(0, name.size() - 2);
    if (base.starts_with('[') && base.ends_with(']')) base = base.substr(1, base.size() - 2);
    return symmetric_square(representation_named(group, base)).representation;
  }
  if (name == "trivial") return trivial_representation(group);
  if (name == "regular") {
    if (group->is_finite()) return regular_representation(group);
    throw UsageError(
        fmt::format("{} has infinitely many elements and no regular fields: expected "
                    "\"<L\", those of its irreps up to a frequency L",
                    group->name()));
  }
  if (name.starts_with('/'))
    return quotient_representation(group, *make_group(name.substr(1), group->dimension()));
  if (name.starts_with('<')) {
    int band = -1;
    const auto [end, error] = std::from_chars(name.data() + 1, name.data() + name.size(), band);
    if (error == std::errc() && end == name.data() + name.size() && band >= 0)
      return spectral_regular_representation(group, band);
    throw UsageError(fmt::format("fields \"{}\": expected \"<L\" with a number L", name));
  }
  return irrep_representation(group, name);
}

}  // namespace

int64_t FieldType::channels() const {
  return std::accumulate(kinds.begin(), kinds.end(), int64_t{0},
                         [](int64_t sum, const Kind& kind) { return sum + kind.channels(); });
}

int64_t FieldType::fields() const {
  return std::accumulate(kinds.begin(), kinds.end(), int64_t{0},
                         [](int64_t sum, const Kind& kind) { return sum + kind.count; });
}

bool FieldType::is_permutation() const {
  return std::all_of(kinds.begin(), kinds.end(),
                     [](const Kind& kind) { return kind.representation.is_permutation(); });
}

bool FieldType::is_trivial() const {
  return std::all_of(kinds.begin(), kinds.end(),
                     [](const Kind& kind) { return kind.is_trivial(); });
}

Matrix FieldType::at(const Element& g) const {
  Matrix out = Matrix::Zero(channels(), channels());
  Eigen::Index place = 0;
  for (const auto& kind : kinds) {
    const auto rho = kind.representation.at(g);
    for (int64_t f = 0; f < kind.count; ++f, place += rho.rows())
      out.block(place, place, rho.rows(), rho.rows()) = rho;
  }
  return out;
}

std::string FieldType::text() const {
  std::vector<std::string> parts;
  for (const auto& kind : kinds) parts.push_back(fmt::format("{} {}", kind.count, kind.name));
  return fmt::format("{}: {}", group->name(), fmt::join(parts, ", "));
}

FieldType FieldType::trivial(const GroupPtr& group, int64_t count) {
  return {group, {{"trivial", trivial_representation(group), count}}};
}

FieldType FieldType::parse(const GroupPtr& group, const std::vector<std::string>& fields) {
  FieldType out{group, {}};
  for (const auto& text : fields) {
    const auto space = text.find(' ');
    int64_t count = 0;
    const auto* const end = text.data() + std::min(space, text.size());
    const auto [stop, error] = std::from_chars(text.data(), end, count);
    if (space == std::string::npos || error != std::errc() || stop != end || count < 1)
      throw UsageError(fmt::format(
          "fields: expected a number and a kind, as in \"4 regular\", found \"{}\"", text));
    const auto name = text.substr(text.find_first_not_of(' ', space));
    out.kinds.push_back({name, representation_named(group, name), count});
  }
  if (out.kinds.empty()) throw UsageError("fields: expected at least one kind, found none");
  return out;
}

}  // namespace evariste
