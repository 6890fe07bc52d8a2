// The flags of `evidence`: one description serves the command line, a TOML given by --config, the
// help and what --dry-run prints.
#pragma once

#include <set>

#include "io/command_line.h"
#include "io/config.h"
#include "laplace/bounds.h"
#include "laplace/fit.h"
#include "laplace/predictive.h"
#include "laplace/priors/prior.h"

namespace evariste {

struct EvidenceOptions {
  std::string network, weights, data, test, load;
  std::string likelihood = "classification";
  std::string structure = "kron";
  std::vector<std::string> only;
  std::string fisher = "exact";
  int64_t mc_samples = 1;
  double rank_tolerance = 0;
  std::string graphs = "off";
  std::string sharing = "expand";
  std::string correction = "trace";
  std::string bias = "exact";
  std::string norm = "diag";
  std::string positions = "selected";
  int64_t rank = 20;
  std::string prior = "layerwise";
  std::vector<double> prior_precision = {1.0};
  std::string fit = "none";
  std::string fit_on = "evidence";
  std::string validation;
  int64_t prior_steps = 100;
  double grid_low = 1e-4, grid_high = 1e4;
  int64_t grid_points = 21;
  double temperature = 1.0;
  double noise = 1.0;
  std::string fit_noise = "off", fit_temperature = "off";
  std::string predictive = "map";
  int64_t draws = 100;
  std::string dtype = "float32";
  int64_t batch = 250;
  double budget = 0;
  int64_t repeat = 1;
  std::string checks = "on";
  int64_t polish = 0;
  std::string save;
  std::string bound = "none", bound_parts = "random";
  int64_t bound_samples = 100, bound_draws = 0;
  int64_t samples = 0;
  std::string samples_out, predictive_out;
  std::string equivariance;
  int64_t rotations = 16;
  std::string entry = "off";
  int64_t entry_band = 2;

  template <class Visitor>
  void visit(Visitor&& field) {
    field("network", network, "network file, TOML");
    field("weights", weights, "its weights, safetensors");
    field("data", data, "safetensors with x [N, ...] and y, int64 [N] or float [N, C]");
    field("test", test, "the same for a test set");
    field(
        "load", load,
        "posterior that --save wrote, in place of --data and a fit; options that made it are its");
    field("likelihood", likelihood, "what the outputs mean",
          {"classification", "regression", "bernoulli"});
    field("structure", structure, "of the curvature; lastlayer: dense over the last linear layer",
          {"kron", "ekfac", "diag", "block", "full", "lastlayer", "lowrank"});
    field("only", only, "blocks it covers, by name or layer (2.weight, 2); the others are held");
    field("fisher", fisher, "exact, labels drawn from the model, or the observed labels",
          {"exact", "mc", "empirical"});
    field("mc_samples", mc_samples, "labels drawn per sample with --fisher mc");
    field("rank_tolerance", rank_tolerance,
          "leave out columns of confident samples: at most this part of the output curvature");
    field("graphs", graphs, "on: the pass as CUDA graphs, for networks of many small layers",
          {"off", "on"});
    field("sharing", sharing, "positions as samples, or summed first", {"expand", "reduce"});
    field(
        "correction", correction,
        "scale each Kronecker block to the Fisher's trace: exact, or of a random column per sample",
        {"trace", "sketch", "none"});
    field("positions", positions, "of a convolution before a polyphase layer", {"selected", "all"});
    field("bias", bias, "curvature of a bias shared over positions", {"exact", "expand", "joint"});
    field("norm", norm, "weight and bias of a norm by themselves, or 2 x 2 for each channel",
          {"diag", "joint"});
    field("rank", rank, "eigenpairs of --structure lowrank");
    field("prior", prior, "one precision per block, one for all, or one per entry",
          {"layerwise", "scalar", "diagonal"});
    field("prior_precision", prior_precision, "one value, or one per block in order");
    field("fit", fit,
          "of the prior precisions: newton runs to the fixed point; grid: one precision for all",
          {"none", "newton", "adam", "grid"});
    field("fit_on", fit_on, "what --fit adam and grid look at; validation: NLL of --predictive",
          {"evidence", "validation"});
    field("validation", validation, "data of --fit-on validation, as --test");
    field("prior_steps", prior_steps, "steps of --fit adam");
    field("grid_low", grid_low, "smallest precision of --fit grid");
    field("grid_high", grid_high, "largest precision of --fit grid");
    field("grid_points", grid_points, "of --fit grid, equidistant in log");
    field("temperature", temperature, "divides the log-likelihood");
    field("noise", noise, "regression: standard deviation of the noise");
    field("fit_noise", fit_noise, "regression: the noise as well, on what --fit-on says",
          {"off", "on"});
    field("fit_temperature", fit_temperature, "the temperature as well: --fit-on validation",
          {"off", "on"});
    field("predictive", predictive,
          "map: plug-in; probit: closed form (regression: variance V + noise^2); mc; bridge",
          {"map", "probit", "mc", "bridge"});
    field("draws", draws, "of --predictive mc, per sample");
    field("dtype", dtype, "of network and data; evidence is float64 always",
          {"float32", "float64"});
    field("batch", batch, "samples per chunk; the numbers do not depend on it");
    field("budget", budget, "GB the fit may use; 0: four fifths of the memory that is free");
    field("repeat", repeat, "repetitions, for timing");
    field("checks", checks, "whether to believe the evidence", {"on", "off"});
    field("bound", bound,
          "also a lower bound from parts of the data: of the structure, or of the full GGN by its "
          "kernel, exact, with outputs apart, or one of them",
          {"none", "parametric", "ntk", "ntk-independent", "ntk-single"});
    field("bound_samples", bound_samples, "samples of a part");
    field("bound_draws", bound_draws, "parts that are looked at; 0: as many as there are");
    field("bound_parts", bound_parts, "how parts are filled", {"random", "class"});
    field("polish", polish, "K-FAC steps towards the mode before everything else");
    field("save", save, "HDF5 file for the posterior; needs --force where there is one");
    field("samples", samples, "draws of the posterior for --samples-out and --predictive-out");
    field("samples_out", samples_out, "safetensors of weights, [samples, ...] by parameter");
    field("predictive_out", predictive_out,
          "safetensors of the test set's outputs [samples, N, C], and their probabilities");
    field(
        "equivariance", equivariance,
        "no evidence: how far each layer is from commuting with a group, C4, D8, SO(2) ..., on the "
        "first --batch images of --data");
    field("rotations", rotations, "of an infinite group, for --equivariance");
    field("entry", entry,
          "no evidence: which steerable layers want to be less equivariant, and by which irrep of "
          "their group",
          {"off", "on"});
    field("entry_band", entry_band,
          "of an infinite group, for --entry: irreps up to this frequency");
  }
};

/// Flags over the TOML of --config (keys as the flags, with underscores) over defaults. Throws
/// UsageError for a bad value or a combination that is undefined or not built.
struct EvidenceRequest {
  CommandLine command_line;
  EvidenceOptions options;
  std::set<std::string> given;  ///< keys of options on the command line or not at their default
};
EvidenceRequest parse_evidence_request(int argc, char** argv);

/// The combinations; with --load to be called once the options are those of the posterior.
void expect_combination(const EvidenceRequest& request);

/// "--prior-steps" of "prior_steps".
std::string flag_name(std::string_view key);

/// A file to be written, under --out if that is given. Throws UsageError for a folder, for a file
/// in no folder, and for one that is there unless --force is given.
std::filesystem::path output_path(const EvidenceRequest& request, std::string_view key,
                                  const std::string& file);

/// The curvature that the options ask for. `bases`: more than the evidence is wanted of it.
Fit fit_problem(const EvidenceOptions& options, Layer& network, const Likelihood& likelihood,
                const Samples& data, const Stream& root, bool bases);

/// What the options mean to the engine.
CurvatureOptions curvature_options(const EvidenceOptions& options, const Stream& root, bool bases);
BoundOptions bound_options(const EvidenceOptions& options, const Stream& root);
/// Eigenvectors cost five times the eigenvalues, and the evidence alone does without.
bool needs_bases(const EvidenceOptions& options);
torch::ScalarType scalar_type(const EvidenceOptions& options);
Link predictive_link(const EvidenceOptions& options);

/// Fresh priors at --prior-precision, one per block; one handle for all with --prior scalar. Throws
/// UsageError where the number of precisions is not that of the blocks.
std::vector<Prior> make_priors(const EvidenceOptions& options,
                               const std::vector<const Block*>& blocks);

}  // namespace evariste
