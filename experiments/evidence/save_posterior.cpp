#include "experiments/evidence/save_posterior.h"

#include <numeric>

#include "core/error.h"
#include "io/atomic_file.h"
#include "io/provenance.h"
#include "io/run_record.h"
#include "laplace/low_rank.h"

namespace evariste {

std::filesystem::path posterior_path(const EvidenceRequest& request) {
#ifndef EVARISTE_HDF5
  throw UsageError("--save: this build has no HDF5, configure with -DEVARISTE_HDF5=ON");
#endif
  const auto path = request.command_line.out / request.options.save;
  if (std::filesystem::is_directory(path))
    throw UsageError(fmt::format("--save {}: is a folder, expected a file", path.string()));
  const auto folder = path.has_parent_path() ? path.parent_path() : ".";
  if (!std::filesystem::is_directory(folder))
    throw UsageError(
        fmt::format("--save {}: there is no folder {}", path.string(), folder.string()));
  if (std::filesystem::exists(path) && !request.command_line.force)
    throw UsageError(
        fmt::format("--save {}: the file is there already, --force replaces it", path.string()));
  return path;
}

#ifdef EVARISTE_HDF5
namespace {

/// Adds arrays to a record, each with dimensions of its own group.
class PosteriorRecord {
 public:
  RunRecord record;

  /// The index of `group/name`, 0, 1, ... of that length; declared where it is not there yet.
  size_t dimension(const std::string& group, const std::string& name, int64_t length) {
    const auto path = group + "/" + name;
    for (size_t d = 0; d < record.dimensions.size(); ++d)
      if (record.dimensions[d].path == path) return d;
    std::vector<int64_t> values(static_cast<size_t>(length));
    std::iota(values.begin(), values.end(), 0);
    record.dimensions.push_back({path, false, values, "", ""});
    return record.dimensions.size() - 1;
  }

  void tensor(const std::string& group, const std::string& name, const Tensor& tensor,
              const std::vector<std::string>& dimensions, std::string_view long_name) {
    const auto data = tensor.detach().to(torch::kFloat64).contiguous();
    RunArray array{group + "/" + name, {}, {}, std::string(long_name), ""};
    for (size_t d = 0; d < dimensions.size(); ++d)
      array.dimensions.push_back(
          dimension(group, dimensions[d], data.size(static_cast<int64_t>(d))));
    array.values =
        std::vector<double>(data.data_ptr<double>(), data.data_ptr<double>() + data.numel());
    record.arrays.push_back(std::move(array));
  }
};

void add_blocks(PosteriorRecord& out, const EvidenceResult& result) {
  std::vector<std::string> names, priors;
  std::vector<int64_t> parameters, groups, outputs, inputs;
  std::vector<double> precision, effective;
  const auto& blocks = result.fit.curvature->blocks();
  for (size_t m = 0; m < blocks.size(); ++m) {
    const auto shape = blocks[m]->value().sizes().vec();
    const auto& evidence = result.evidence.blocks[m];
    names.push_back(blocks[m]->name);
    priors.emplace_back(result.priors[m].name());
    parameters.push_back(evidence.parameters);
    groups.push_back(shape[0]), outputs.push_back(shape[1]), inputs.push_back(shape[2]);
    precision.push_back(evidence.prior_precision);
    effective.push_back(evidence.effective_dimension);
  }
  const auto block = out.record.dimensions.size();
  out.record.dimensions.push_back({"blocks/block", false, names, "block", ""});
  const auto add = [&](const char* name, Values values, const char* long_name) {
    out.record.arrays.push_back(
        {std::string("blocks/") + name, {block}, std::move(values), long_name, ""});
  };
  add("parameters", parameters, "number of parameters");
  add("groups", groups, "groups Q of a block-diagonal map");
  add("outputs", outputs, "fan out O");
  add("inputs", inputs, "fan in J");
  add("prior", priors, "prior over the weights");
  add("prior_precision", precision, "prior precision, mean over entries");
  add("effective_dimension", effective, "effective dimension");
}

const std::vector<std::string> kEntries = {"group", "output", "input"};

void add_weights(PosteriorRecord& out, const EvidenceResult& result) {
  const auto& blocks = result.fit.curvature->blocks();
  const auto precisions = precisions_of(result.priors, *result.fit.curvature);
  for (size_t m = 0; m < blocks.size(); ++m) {
    const auto group = "weights/" + blocks[m]->name;
    out.tensor(group, "mean", blocks[m]->value(), kEntries, "posterior mean");
    if (precisions[m].dim() > 0)
      out.tensor(group, "prior_precision", precisions[m], kEntries, "prior precision");
  }
}

void add_curvature(PosteriorRecord& out, const Curvature& curvature) {
  const auto& blocks = curvature.blocks();
  if (const auto* dense = dynamic_cast<const DenseCurvature*>(&curvature)) {
    out.tensor("curvature", "hessian", dense->hessian(), {"row", "column"},
               "Gauss-Newton matrix H, without the scale h");
    return;
  }
  if (const auto* low = dynamic_cast<const LowRankCurvature*>(&curvature)) {
    out.tensor("curvature", "values", low->values(), {"rank"}, "eigenvalues of H");
    out.tensor("curvature", "basis", low->basis(), {"row", "rank"}, "eigenvectors of H");
    return;
  }
  for (size_t m = 0; m < blocks.size(); ++m) {
    const auto group = "curvature/" + blocks[m]->name;
    if (const auto* each = dynamic_cast<const BlockCurvature*>(&curvature)) {
      out.tensor(group, "hessian", each->hessian(m), {"row", "column"},
                 "Gauss-Newton matrix of the block, without the scale h");
    } else if (const auto* diagonal = dynamic_cast<const DiagonalCurvature*>(&curvature)) {
      out.tensor(group, "diagonal", diagonal->diagonals()[m], kEntries, "diagonal of H");
    } else if (const auto* kron = dynamic_cast<const KronCurvature*>(&curvature)) {
      const auto& f = kron->factors()[m];
      out.tensor(group, "correction", torch::tensor(f.correction, torch::kFloat64), {},
                 "trace correction c");
      out.tensor(group, "b_values", f.b.values, {"group", "b_rank"}, "eigenvalues of B");
      out.tensor(group, "b_basis", f.b.basis, {"group", "output", "b_rank"}, "eigenvectors of B");
      out.tensor(group, "a_values", f.a.values, {"group", "a_rank"}, "eigenvalues of A");
      out.tensor(group, "a_basis", f.a.basis, {"group", "input", "a_rank"}, "eigenvectors of A");
      if (f.spectrum.defined())
        out.tensor(group, "spectrum", f.spectrum, {"group", "b_rank", "a_rank"},
                   "eigenvalues of EKFAC");
    }
  }
}

}  // namespace

void save_posterior(const std::filesystem::path& path, const EvidenceRequest& request,
                    const EvidenceProblem& problem, const EvidenceResult& result) {
  PosteriorRecord out;
  const auto& e = result.evidence;
  const double precision = problem.likelihood->curvature_scale();
  out.record.attributes = {{"format", std::string("evariste-posterior")},
                           {"version", int64_t{1}},
                           {"structure", std::string(result.fit.curvature->structure())},
                           {"likelihood", request.options.likelihood},
                           {"temperature", request.options.temperature},
                           {"noise", std::sqrt(1 / precision)},
                           {"scale", result.fit.curvature->scale()},
                           {"samples", e.n},
                           {"log_likelihood", e.log_likelihood},
                           {"log_det_ratio", e.log_det_ratio},
                           {"scatter", e.scatter},
                           {"log_evidence", e.log_evidence},
                           {"network", read_file(request.options.network)},
                           {"program", "evidence " + version_text()},
                           {"command", request.command_line.command}};
  add_blocks(out, result);
  add_weights(out, result);
  add_curvature(out, *result.fit.curvature);
  write_run(path, out.record);
}
#else
void save_posterior(const std::filesystem::path& path, const EvidenceRequest&,
                    const EvidenceProblem&, const EvidenceResult&) {
  throw UsageError(fmt::format("--save {}: this build has no HDF5", path.string()));
}
#endif

}  // namespace evariste
