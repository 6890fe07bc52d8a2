#include "laplace/priors/builtin.h"

#include <sstream>

#include "core/error.h"
#include "core/nearest.h"

namespace evariste {

const std::map<std::string_view, BuiltinPrior>& builtin_priors() {
  static const std::map<std::string_view, BuiltinPrior> table = {
      {IsotropicGaussian::kName,
       {[](const PriorRequest& r) { return Prior(IsotropicGaussian(r.precision)); }, {}}},
      {DiagonalGaussian::kName,
       {[](const PriorRequest& r) { return Prior(DiagonalGaussian(r.precision, r.shape)); }, {}}},
      {GammaGaussian::kName,
       {[](const PriorRequest& r) {
          return Prior(GammaGaussian(r.precision, r.positive("shape"), r.positive("rate")));
        },
        {{"shape", 1.0}, {"rate", 1e-3}}}},
      // A new prior: its entry here, its header and its type in builtin.h, its test and that file's
      // name in tests/laplace/CMakeLists.txt. CONTRIBUTING.md shows one.
  };
  return table;
}

double PriorRequest::positive(std::string_view key) const {
  const auto& node = *table.get(key);
  const auto value = node.value<double>();
  if (value && *value > 0) return *value;
  std::ostringstream found;
  node.visit([&](const auto& concrete) { found << concrete; });
  throw UsageError(fmt::format("prior.{}: expected a positive number, found {}", key, found.str()));
}

namespace {

const BuiltinPrior& find_prior(const std::string& type) {
  const auto found = builtin_priors().find(type);
  if (found != builtin_priors().end()) return found->second;
  std::vector<std::string> names;
  for (const auto& [name, prior] : builtin_priors()) names.emplace_back(name);
  throw UsageError("prior.type: " + unknown_name("prior", type, names));
}

std::string type_of(const toml::table& prior) {
  return prior["type"].value_or(std::string(IsotropicGaussian::kName));
}

}  // namespace

toml::table with_defaults(const toml::table& prior) {
  auto table = prior;
  const auto type = type_of(prior);
  table.insert("type", type);  // where there is none
  for (const auto& [key, value] : find_prior(type).keys) table.insert(key, value);
  return table;
}

Prior make_prior(const PriorRequest& request) {
  const auto& prior = find_prior(type_of(request.table));
  const auto table = with_defaults(request.table);
  std::vector<std::string> known = {"type"};
  for (const auto& [key, value] : prior.keys) known.push_back(key);
  for (const auto& [key, value] : table)
    if (std::find(known.begin(), known.end(), key.str()) == known.end())
      throw UsageError(unknown_name("key of [prior]", key.str(), known));
  return prior.make({table, request.precision, request.shape});
}

}  // namespace evariste
