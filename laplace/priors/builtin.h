// The one list of priors that a configuration may ask for.
#pragma once

#include <toml++/toml.h>

#include <functional>
#include <map>

#include "laplace/priors/diagonal_gaussian.h"
#include "laplace/priors/gamma_gaussian.h"
#include "laplace/priors/isotropic_gaussian.h"

namespace evariste {

/// What a prior is made from: its TOML table, the precision it starts at, the shape [Q, O, J] of
/// the block it is for.
struct PriorRequest {
  const toml::table& table;
  double precision;
  at::IntArrayRef shape;

  /// A positive number of the table. Throws UsageError for anything else.
  double positive(std::string_view key) const;
};

using PriorFactory = std::function<Prior(const PriorRequest&)>;
struct BuiltinPrior {
  PriorFactory make;
  std::map<std::string, double> keys;  ///< of its TOML table besides `type`, with their defaults
};
const std::map<std::string_view, BuiltinPrior>& builtin_priors();

/// The table with `type` and all keys of that type, those that are absent at their defaults.
toml::table with_defaults(const toml::table& prior);

/// Makes the prior that `type` names, keys that are absent at their defaults; unknown names and
/// keys are UsageErrors with the nearest name.
Prior make_prior(const PriorRequest& request);

/// The types of builtin_priors(), for tests that hold for every prior.
using BuiltinPriorTypes = std::tuple<IsotropicGaussian, DiagonalGaussian, GammaGaussian>;

}  // namespace evariste
