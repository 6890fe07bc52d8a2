#include "laplace/plan.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <set>

#include <ATen/DeviceAccelerator.h>

#include "laplace/block_index.h"

namespace evariste {
namespace {

constexpr double kTileEntries = 1 << 23;  // as in statistics.cpp

/// Entries of all different tensors on a tape, and of the largest one.
struct TapeSize {
  double entries = 0, widest = 0;
  std::set<const void*> seen;

  void add(const Tape& tape) {
    for (const auto& tensor : {tape.x, tape.aux, tape.output}) {
      if (!tensor.defined()) continue;
      const auto size = static_cast<double>(tensor.numel());
      widest = std::max(widest, size);
      if (seen.insert(tensor.storage().data()).second) entries += size;
    }
    for (const auto& child : tape.children) add(child);
  }
};

/// One block and how many positions a sample has in it.
struct Shape {
  double q, o, j, t = 1;
  double input_gram = 0;   // flops of a sample
  bool is_counted = true;  // its output factor is: a bias shares that of its weight
  bool is_constant = false, is_elementwise = false;
  double parameters() const { return q * o * j; }
};

/// Flops of the squared norms of a sample's gradients, one for each column: from Gram matrices of
/// positions where they are few (gradient_trace).
double trace_flops(const Shape& s, double columns) {
  if (s.t == 1) return 2 * s.q * (columns * s.o + s.j);
  const double by_positions = 2 * s.t * s.t * s.q * (columns * s.o + s.j);
  return std::min(by_positions, 2 * s.t * columns * s.parameters());
}

bool is_linear(const Shape& s) { return s.t == 1 && s.q == 1; }

/// Flops of a sample in sum_n K_n x phi phi^T, K_n [O, O] symmetric (LinearSum).
double linear_flops(double o, double j) { return o * (o + 1) * j * j; }

double columns_of(const CurvatureOptions& options, const Likelihood& likelihood, const Tensor& f) {
  if (options.fisher == Fisher::kEmpirical) return 1;
  if (options.fisher == Fisher::kExact)
    return static_cast<double>(likelihood.hessian_root(f).size(0));
  return static_cast<double>(options.mc_samples);
}

bool is_kronecker(Structure structure) {
  return structure == Structure::kKron || structure == Structure::kEkfac;
}

}  // namespace

double CurvaturePlan::bytes(double after) const {
  double pass = 0, eigen = 0, kept = 0;
  for (const auto& stage : stages)
    (stage.name == "pass" ? pass : stage.name == "eigen" ? eigen : kept) += stage.bytes;
  return kept + std::max({pass, eigen, after});
}

double CurvaturePlan::flops() const {
  double sum = 0;
  for (const auto& stage : stages) sum += stage.flops;
  return sum;
}

double pass_bytes(Layer& network, const Samples& data, int64_t samples, int64_t columns) {
  torch::NoGradGuard no_grad;
  Tape tape;
  const auto f = network.forward(data.inputs(0, 1), &tape);
  TapeSize size;
  size.add(tape);
  return static_cast<double>(samples * data.x.element_size()) *
         (size.entries + 2 * static_cast<double>(columns + 1) * size.widest);
}

CurvaturePlan plan_curvature(Layer& network, const Likelihood& likelihood, const Samples& data,
                             const CurvatureOptions& options) {
  torch::NoGradGuard no_grad;
  std::vector<std::shared_ptr<Block>> owned;
  const auto blocks = curvature_blocks(network, options, owned);
  std::vector<Shape> shapes;
  const BlockIndex index(blocks);
  for (const auto* block : blocks) {
    const auto value = block->value().sizes().vec();
    shapes.push_back({static_cast<double>(value[0]), static_cast<double>(value[1]),
                      static_cast<double>(value[2])});
  }

  Tape tape;
  const auto f = network.forward(data.inputs(0, 1), &tape);
  TapeSize taped;
  taped.add(tape);
  // Multiply-adds of a sample: the maps of the network as they are met going backwards, and the
  // place of the lowest one that is wanted.
  struct Map {
    double products;
    const void* input;
  };
  std::vector<Map> maps;
  size_t lowest = 0;
  double held = 0, stacked_x = 0, stacked_g = 0;  // entries of layers that are repeated
  network.backward(
      torch::zeros({1, 1, f.size(1)}, f.options()), tape,
      [&](const Block& block, const Tensor& x, const Tensor& g) {
        if (!block.is_constant() && !taped.seen.count(x.storage().data())) {
          held += static_cast<double>(g.numel());
          stacked_x = std::max(stacked_x, static_cast<double>(x.numel()));
          stacked_g = std::max(stacked_g, static_cast<double>(g.numel()));
        }
        const auto positions = block.to_positions(g.flatten(0, 1));
        const auto t = static_cast<double>(positions.size(2));
        const auto m = index(block);
        if (m >= 0) lowest = maps.size();
        maps.push_back({block.is_constant() ? 0 : t * static_cast<double>(block.parameters()),
                        x.storage().data()});
        if (m < 0) return;
        auto& shape = shapes[static_cast<size_t>(m)];
        shape.is_constant = block.is_constant();
        shape.is_elementwise = block.is_elementwise();
        if (!block.is_constant()) {
          shape.t = t;
          shape.input_gram = sharing_of(*blocks[m], options) == Sharing::kExpand
                                 ? blocks[m]->input_gram_flops(x)
                                 : shape.q * shape.j * (shape.j + 1);
        }
        if (block.bias && index(*block.bias) >= 0)
          shapes[static_cast<size_t>(index(*block.bias))].is_counted =
              shape.q > 1 ||
              (t > 1 && sharing_of(block, options) != sharing_of(*block.bias, options));
      },
      false);
  double forward = 0, backward = 0;  // cotangents go through what lies above the lowest one
  for (size_t i = 0; i < maps.size(); ++i) {
    forward += maps[i].products;
    if (i < lowest && maps[i].input != maps[lowest].input) backward += maps[i].products;
  }
  const auto element = static_cast<double>(data.x.element_size());
  const auto columns = columns_of(options, likelihood, f);
  const auto cut =
      cut_pass(network, data, std::min(options.batch, data.count()), static_cast<int64_t>(columns));
  const auto samples = static_cast<double>(cut.samples);
  const auto together = static_cast<double>(cut.columns);
  const auto n = static_cast<double>(data.count());
  const bool bases = options.bases || options.structure == Structure::kEkfac;
  const bool is_joint_matrix =
      options.structure == Structure::kFull || options.structure == Structure::kLastLayer;

  const bool is_sketched =
      options.structure == Structure::kKron && options.correction == Correction::kSketch;
  const double sketches = is_sketched ? 1 : 0;
  PlannedStage pass{"pass", pass_bytes(network, data, cut.samples, cut.columns),
                    n * 2 * (forward + (columns + sketches) * backward)};
  pass.bytes += samples * (stacked_x + together * (held + stacked_g)) * element;
  PlannedStage kept{"curvature", 0, 0}, eigen{"eigen", 0, 0};
  double parameters = 0, widest = 0, tile = 0, features = 0;
  for (const auto& s : shapes) {
    parameters += s.parameters();
    widest = std::max(widest, s.parameters());
    const bool is_corrected =
        options.structure == Structure::kKron && options.correction == Correction::kTrace;
    if (s.t > 1 && options.structure == Structure::kKron &&
        options.correction == Correction::kSketch)
      features = std::max(features, samples * s.q * s.t * s.j);
    if (s.t > 1 && is_corrected)  // kept until the samples' last column, or made anew
      features = cut.columns < static_cast<int64_t>(columns)
                     ? features + samples * s.q * s.t * s.j
                     : std::max(features, samples * s.q * s.t * s.j);
    if (s.t > 1 &&
        (options.structure == Structure::kDiag || options.structure == Structure::kEkfac))
      tile = std::max(tile, 2 * std::min(samples * together * s.parameters(), kTileEntries));
    const double gradients = 2 * n * columns * s.t * s.parameters();
    const bool is_reduced = options.sharing == Sharing::kReduce ||
                            (s.is_constant && options.bias != BiasCurvature::kExpand);
    const double rows = columns * (is_reduced ? 1 : s.t);  // of a sample in the output factor
    if (is_kronecker(options.structure)) {
      kept.bytes += 8 * s.q * (s.j * s.j + s.o * s.o) * (bases ? 2 : 1);
      if (options.structure == Structure::kEkfac) kept.bytes += 8 * s.parameters();
      const auto d = std::max(s.j, s.o);
      eigen.bytes = std::max(eigen.bytes, 8 * 4 * s.q * d * d);
      eigen.flops += s.q * (std::pow(s.j, 3) + std::pow(s.o, 3)) * (bases ? 9 : 4.0 / 3);
      if (s.is_elementwise) {
        pass.flops += gradients;
      } else {
        pass.flops += n * s.input_gram;
        if (s.is_counted) pass.flops += n * rows * s.q * s.o * (s.o + 1);
        if (is_corrected) pass.flops += n * trace_flops(s, columns);
        if (options.structure == Structure::kKron && options.correction == Correction::kSketch)
          pass.flops += n * trace_flops(s, 1);
      }
      if (options.structure == Structure::kEkfac)  // what is rotated, and its products
        pass.flops += 2 * n * s.t * s.q * (s.j * s.j + columns * s.o * s.o) +
                      (s.t > 1 ? gradients : 2 * n * s.parameters());
    } else if (options.structure == Structure::kDiag) {
      kept.bytes += 8 * s.parameters();
      pass.flops += s.t > 1 ? gradients : 2 * n * s.parameters();
    } else if (options.structure == Structure::kBlock) {
      kept.bytes += 8 * s.parameters() * s.parameters();
      pass.flops += is_linear(s) ? n * linear_flops(s.o, s.j)
                                 : gradients + 2 * n * columns * s.parameters() * s.parameters();
      eigen.flops += std::pow(s.parameters(), 3) / 3;
    }
  }
  if (is_joint_matrix) {
    widest = parameters;
    kept.bytes = 8 * parameters * parameters;
    const auto& last = shapes.front();
    pass.flops += options.structure == Structure::kLastLayer && is_linear(last)
                      ? n * linear_flops(last.o, last.j + static_cast<double>(shapes.size() - 1))
                      : 2 * n * columns * parameters * parameters;
    eigen.flops = std::pow(parameters, 3) / 3;
  }
  if (is_joint_matrix || options.structure == Structure::kBlock) {
    eigen.bytes = 4 * 8 * widest * widest;
    pass.bytes += samples * together * widest * (element + 16);
  }
  if (options.structure == Structure::kEkfac)
    pass.flops += n * 2 * (forward + columns * backward);  // again
  pass.bytes += (tile + features) * element;
  return {{pass, kept, eigen}};
}

BudgetExceeded::BudgetExceeded(const CurvaturePlan& plan, double budget_bytes,
                               std::string_view structure, const std::string& suggestion)
    : UsageError(fmt::format("{} curvature needs about {:.3g} GB, {:.3g} GB may be used: {}",
                             structure, 1e-9 * plan.bytes(), 1e-9 * budget_bytes, suggestion)),
      needed_bytes(plan.bytes()),
      available_bytes(budget_bytes) {}

void expect_within(const CurvaturePlan& plan, double budget_bytes, Layer& network,
                   const Likelihood& likelihood, const Samples& data,
                   const CurvatureOptions& options, bool has_entry_precisions) {
  if (plan.bytes() <= budget_bytes) return;
  constexpr std::pair<Structure, std::string_view> kNames[] = {
      {Structure::kFull, "full"},   {Structure::kLastLayer, "lastlayer"},
      {Structure::kBlock, "block"}, {Structure::kEkfac, "ekfac"},
      {Structure::kKron, "kron"},   {Structure::kDiag, "diag"}};  // from large to small
  std::string_view asked;
  for (const auto& [structure, name] : kNames)
    if (structure == options.structure) asked = name;
  if (options.batch > 1) {  // the same with less at once
    auto fewer = options;
    fewer.batch = 1;
    if (plan_curvature(network, likelihood, data, fewer).bytes() <= budget_bytes)
      throw BudgetExceeded(plan, budget_bytes, asked, "use a smaller batch");
  }
  bool is_smaller = false;
  for (const auto& [structure, name] : kNames) {
    const bool is_meant = structure != Structure::kLastLayer &&  // its evidence is another number
                          !(is_kronecker(structure) && has_entry_precisions);
    if (is_smaller && is_meant) {
      auto other = options;
      other.structure = structure;
      other.sharing = Sharing::kExpand;
      other.bias = BiasCurvature::kExact;
      if (plan_curvature(network, likelihood, data, other).bytes() <= budget_bytes)
        throw BudgetExceeded(plan, budget_bytes, asked, fmt::format("structure {} fits", name));
    }
    is_smaller = is_smaller || structure == options.structure;
  }
  throw BudgetExceeded(plan, budget_bytes, asked, "no structure fits");
}

double default_budget_bytes(torch::Device device) {
  constexpr double kShare = 0.8;
  if (device.is_cuda())
    return kShare * static_cast<double>(at::accelerator::getMemoryInfo(device.index()).first);
  std::ifstream file("/proc/meminfo");
  std::string name, unit;
  for (double value = 0; file >> name >> value; std::getline(file, unit))
    if (name == "MemAvailable:") {
      const char* neighbours = std::getenv("LOCAL_WORLD_SIZE");  // of torchrun, on this machine
      return kShare * 1024 * value / std::max(1.0, neighbours ? std::atof(neighbours) : 1.0);
    }
  return std::numeric_limits<double>::infinity();
}

}  // namespace evariste
