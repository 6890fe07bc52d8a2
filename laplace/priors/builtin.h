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
  double positive(std::string_view key, double fallback) const;
};

using PriorFactory = std::function<Prior(const PriorRequest&)>;
struct BuiltinPrior {
  PriorFactory make;
  std::vector<std::string> keys;  ///< of its TOML table, besides type, share and init
};
const std::map<std::string_view, BuiltinPrior>& builtin_priors();

/// Makes the prior that `type` names; unknown names and keys are UsageErrors with the nearest name.
Prior make_prior(const PriorRequest& request);

/// The types above, for tests that hold for every prior.
using BuiltinPriorTypes = std::tuple<IsotropicGaussian, DiagonalGaussian, GammaGaussian>;

}  // namespace evariste
