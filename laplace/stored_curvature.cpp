#include "laplace/stored_curvature.h"

#include <algorithm>

#include "core/error.h"
#include "core/nearest.h"
#include "laplace/low_rank.h"

namespace evariste {
namespace {

/// The arrays of one block or of all, asked for by name.
class Arrays {
 public:
  Arrays(const std::vector<NamedArray>& arrays, std::string where, torch::Device device)
      : arrays_(arrays), where_(std::move(where)), device_(device) {}

  /// -1 stands for any size.
  Tensor get(std::string_view name, const std::vector<int64_t>& shape) const {
    const auto found = std::find_if(arrays_.begin(), arrays_.end(),
                                    [&](const NamedArray& a) { return a.name == name; });
    if (found == arrays_.end())
      throw IoError(fmt::format("{}: the array \"{}\" is missing", where_, name));
    const auto sizes = found->values.sizes();
    bool fits = sizes.size() == shape.size();
    for (size_t d = 0; fits && d < shape.size(); ++d) fits = shape[d] < 0 || shape[d] == sizes[d];
    if (!fits)
      throw IoError(fmt::format("{}: array \"{}\": expected {}, found {}", where_, name,
                                shape_text(shape), shape_text(sizes)));
    return found->values.to(device_);
  }

 private:
  const std::vector<NamedArray>& arrays_;
  std::string where_;
  torch::Device device_;
};

const std::vector<std::string> kEntries = {"group", "output", "input"};
const char* const kHessian = "Gauss-Newton matrix H, without the scale h";

/// What a structure keeps of block m, or of all blocks together, and how it is made from that.
struct StoredStructure {
  std::vector<NamedArray> (*block)(const Curvature&, size_t m);
  std::vector<NamedArray> (*whole)(const Curvature&);
  std::shared_ptr<Curvature> (*make)(const StoredCurvature&, std::vector<const Block*>,
                                     const Arrays& whole, const std::vector<Arrays>& blocks);
};

std::vector<NamedArray> nothing(const Curvature&) { return {}; }
std::vector<NamedArray> nothing_of_block(const Curvature&, size_t) { return {}; }

std::vector<NamedArray> kron_arrays(const Curvature& curvature, size_t m) {
  const auto& f = static_cast<const KronCurvature&>(curvature).factors()[m];
  if (!f.a.basis.defined() || !f.b.basis.defined())
    throw UsageError(fmt::format(
        "{}: the curvature has eigenvalues alone, a posterior needs CurvatureOptions::bases",
        curvature.blocks()[m]->name));
  std::vector<NamedArray> out = {
      {"correction", torch::tensor(f.correction, torch::kFloat64), {}, "trace correction c"},
      {"b_values", f.b.values, {"group", "b_rank"}, "eigenvalues of B"},
      {"b_basis", f.b.basis, {"group", "output", "b_rank"}, "eigenvectors of B"},
      {"a_values", f.a.values, {"group", "a_rank"}, "eigenvalues of A"},
      {"a_basis", f.a.basis, {"group", "input", "a_rank"}, "eigenvectors of A"}};
  if (f.spectrum.defined())
    out.push_back({"spectrum", f.spectrum, {"group", "b_rank", "a_rank"}, "eigenvalues of EKFAC"});
  return out;
}

std::shared_ptr<Curvature> make_kron(const StoredCurvature& stored,
                                     std::vector<const Block*> blocks, const Arrays&,
                                     const std::vector<Arrays>& arrays) {
  std::vector<KronFactor> factors;
  for (size_t m = 0; m < blocks.size(); ++m) {
    const auto shape = blocks[m]->value().sizes().vec();
    KronFactor f;
    f.correction = arrays[m].get("correction", {}).item<double>();
    f.b.values = arrays[m].get("b_values", {shape[0], -1});
    f.a.values = arrays[m].get("a_values", {shape[0], -1});
    f.b.basis = arrays[m].get("b_basis", {shape[0], shape[1], f.b.values.size(1)});
    f.a.basis = arrays[m].get("a_basis", {shape[0], shape[2], f.a.values.size(1)});
    if (stored.structure == "ekfac")
      f.spectrum = arrays[m].get("spectrum", {shape[0], f.b.values.size(1), f.a.values.size(1)});
    factors.push_back(std::move(f));
  }
  return std::make_shared<KronCurvature>(std::move(blocks), std::move(factors), stored.trace_ratios,
                                         stored.samples);
}

std::vector<NamedArray> diagonal_arrays(const Curvature& curvature, size_t m) {
  return {{"diagonal", static_cast<const DiagonalCurvature&>(curvature).diagonals()[m], kEntries,
           "diagonal of H"}};
}

std::shared_ptr<Curvature> make_diagonal(const StoredCurvature& stored,
                                         std::vector<const Block*> blocks, const Arrays&,
                                         const std::vector<Arrays>& arrays) {
  std::vector<Tensor> diagonals;
  for (size_t m = 0; m < blocks.size(); ++m)
    diagonals.push_back(arrays[m].get("diagonal", blocks[m]->value().sizes().vec()));
  return std::make_shared<DiagonalCurvature>(std::move(blocks), std::move(diagonals),
                                             stored.samples);
}

std::vector<NamedArray> block_arrays(const Curvature& curvature, size_t m) {
  return {{"hessian",
           static_cast<const BlockCurvature&>(curvature).hessian(m),
           {"row", "column"},
           kHessian}};
}

std::shared_ptr<Curvature> make_block(const StoredCurvature& stored,
                                      std::vector<const Block*> blocks, const Arrays&,
                                      const std::vector<Arrays>& arrays) {
  std::vector<Tensor> hessians;
  for (size_t m = 0; m < blocks.size(); ++m) {
    const auto p = blocks[m]->parameters();
    hessians.push_back(arrays[m].get("hessian", {p, p}));
  }
  return std::make_shared<BlockCurvature>(std::move(blocks), std::move(hessians), stored.samples);
}

int64_t all_parameters(const std::vector<const Block*>& blocks) {
  int64_t sum = 0;
  for (const auto* block : blocks) sum += block->parameters();
  return sum;
}

std::vector<NamedArray> dense_arrays(const Curvature& curvature) {
  return {{"hessian",
           static_cast<const DenseCurvature&>(curvature).hessian(),
           {"row", "column"},
           kHessian}};
}

std::shared_ptr<Curvature> make_dense(const StoredCurvature& stored,
                                      std::vector<const Block*> blocks, const Arrays& whole,
                                      const std::vector<Arrays>&) {
  const auto p = all_parameters(blocks);
  return std::make_shared<DenseCurvature>(std::move(blocks), whole.get("hessian", {p, p}),
                                          stored.samples, stored.structure);
}

std::vector<NamedArray> low_rank_arrays(const Curvature& curvature) {
  const auto& low = static_cast<const LowRankCurvature&>(curvature);
  return {{"values", low.values(), {"rank"}, "eigenvalues of H"},
          {"basis", low.basis(), {"row", "rank"}, "eigenvectors of H"}};
}

std::shared_ptr<Curvature> make_low_rank(const StoredCurvature& stored,
                                         std::vector<const Block*> blocks, const Arrays& whole,
                                         const std::vector<Arrays>&) {
  const auto values = whole.get("values", {-1});
  const auto basis = whole.get("basis", {all_parameters(blocks), values.size(0)});
  return std::make_shared<LowRankCurvature>(std::move(blocks), basis, values, stored.samples);
}

/// A new structure: its line here, by what Curvature::structure() calls it.
const std::map<std::string_view, StoredStructure>& stored_structures() {
  static const std::map<std::string_view, StoredStructure> table = {
      {"kron", {kron_arrays, nothing, make_kron}},
      {"ekfac", {kron_arrays, nothing, make_kron}},
      {"diag", {diagonal_arrays, nothing, make_diagonal}},
      {"block", {block_arrays, nothing, make_block}},
      {"full", {nothing_of_block, dense_arrays, make_dense}},
      {"lastlayer", {nothing_of_block, dense_arrays, make_dense}},
      {"lowrank", {nothing_of_block, low_rank_arrays, make_low_rank}},
  };
  return table;
}

const StoredStructure& find_structure(std::string_view structure, std::string_view source) {
  const auto found = stored_structures().find(structure);
  if (found != stored_structures().end()) return found->second;
  std::vector<std::string> known;
  for (const auto& [name, entry] : stored_structures()) known.emplace_back(name);
  throw UsageError(fmt::format("{}: {}", source, unknown_name("structure", structure, known)));
}

}  // namespace

StoredCurvature store(const Curvature& curvature) {
  StoredCurvature out{std::string(curvature.structure()), curvature.samples(), {}, {}, {}};
  out.trace_ratios = curvature.trace_ratios();
  const auto& structure = find_structure(out.structure, "posterior");
  out.whole = structure.whole(curvature);
  for (size_t m = 0; m < curvature.blocks().size(); ++m)
    out.blocks.push_back(structure.block(curvature, m));
  return out;
}

std::shared_ptr<Curvature> restore(const StoredCurvature& stored, std::vector<const Block*> blocks,
                                   std::string_view source) {
  const auto device = blocks.empty() ? torch::kCPU : blocks[0]->value().device();
  const Arrays whole(stored.whole, std::string(source), device);
  std::vector<Arrays> each;
  for (size_t m = 0; m < blocks.size(); ++m)
    each.emplace_back(stored.blocks.at(m), fmt::format("{}: {}", source, blocks[m]->name), device);
  return find_structure(stored.structure, source).make(stored, std::move(blocks), whole, each);
}

}  // namespace evariste
