#include "laplace/priors/builtin.h"

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
          return Prior(
              GammaGaussian(r.precision, r.positive("shape", 1.0), r.positive("rate", 1e-3)));
        },
        {"shape", "rate"}}},
      // A new prior: this line, its header and its test are the whole change.
  };
  return table;
}

double PriorRequest::positive(std::string_view key, double fallback) const {
  const auto* node = table.get(key);
  if (!node) return fallback;
  const auto value = node->value<double>();
  if (!value || !(*value > 0))
    throw UsageError(fmt::format("prior.{}: expected a positive number", key));
  return *value;
}

Prior make_prior(const PriorRequest& request) {
  const auto type = request.table["type"].value_or(std::string(IsotropicGaussian::kName));
  const auto found = builtin_priors().find(type);
  if (found == builtin_priors().end()) {
    std::vector<std::string> names;
    for (const auto& [name, prior] : builtin_priors()) names.emplace_back(name);
    throw UsageError("prior.type: " + unknown_name("prior", type, names));
  }
  auto known = found->second.keys;
  known.insert(known.end(), {"type", "share", "init"});
  for (const auto& [key, value] : request.table)
    if (std::find(known.begin(), known.end(), key.str()) == known.end())
      throw UsageError(unknown_name("key of [prior]", key.str(), known));
  return found->second.make(request);
}

}  // namespace evariste
