// The Laplace posterior N(theta*, P^-1): what a fit and its priors leave, as one thing that can be
// sampled, written down and put together again.
//
// Written down it is a PosteriorRecord: names, numbers and arrays without a network or a file
// format (nn/posterior_file.h writes one as HDF5). `restore` puts it on a network of the same
// blocks, on any device the network is on, and every number that follows is that of the run that
// wrote it.
#pragma once

#include "laplace/evidence.h"
#include "laplace/priors/builtin.h"
#include "laplace/stored_curvature.h"

namespace evariste {

struct Posterior {
  Fit fit;
  Priors priors;  ///< one per block of the curvature
  std::shared_ptr<Likelihood> likelihood;
  double temperature = 1.0;

  /// Also brings the curvature's scale h to likelihood and temperature, as everything below does.
  Evidence evidence() const { return evaluate_evidence(fit, *likelihood, priors, temperature); }
  void set_scale() const { fit.curvature->set_scale(likelihood->curvature_scale() / temperature); }
};

/// `count` draws of the covered parameters under the names of the state_dict, each [count, ...] in
/// the parameter's own shape and type. Draw s depends on stream.split(s) only.
NamedTensors posterior_samples(const Posterior& posterior, int64_t count, const Stream& stream);

/// What a posterior is made of.
struct PosteriorRecord {
  struct PriorRecord {
    std::string name;
    std::map<std::string, double> constants;
    NamedTensors hyperparameters;
  };
  struct BlockRecord {
    Tensor mean;       ///< theta*, [Q, O, J] float64
    size_t prior = 0;  ///< which of `priors`; blocks may share one
  };

  std::string dtype;       ///< of the network: "float32", "float64"
  std::string likelihood;  ///< as make_likelihood takes it
  double noise = 1.0, temperature = 1.0;
  Evidence evidence;  ///< for readers; its blocks carry the names. `restore` computes it anew
  double normaliser = 0, dropped = 0, columns = 0;
  int64_t count = 0;
  std::vector<PriorRecord> priors;
  std::vector<BlockRecord> blocks;
  StoredCurvature curvature;
};

/// `evidence` is that of the posterior, with what was measured of its blocks besides.
PosteriorRecord record_of(const Posterior& posterior, const Evidence& evidence);

/// Sets the weights of the blocks to the mean. Throws UsageError where the network's blocks have
/// other names, shapes or another type (found and expected are said) or a prior is none of `known`;
/// IoError where the record contradicts itself. `source` names the file.
Posterior restore(const PosteriorRecord& record, Layer& network, std::string_view source,
                  const std::map<std::string_view, BuiltinPrior>& known = builtin_priors());

/// "float32" or "float64".
std::string dtype_name(torch::ScalarType type);

}  // namespace evariste
