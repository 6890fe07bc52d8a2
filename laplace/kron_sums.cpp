#include "laplace/kron_sums.h"

#include <cmath>
#include <utility>

#include "core/error.h"
#include "laplace/gram.h"

namespace evariste {
namespace {

/// Whether the output factors of a weight and its bias, of the same cotangents, are one sum.
bool are_twins(const KronSums& weight, const KronSums& bias) {
  const bool is_alike =
      weight.sharing == bias.sharing || (weight.positions_b == 1 && bias.positions_b == 1);
  return is_alike && weight.shape[0] == 1 && bias.shape[0] == 1 && weight.shape[1] == bias.shape[1];
}

/// Rows [Q, r, D] as they are, or their Gram matrix where that is smaller.
void add_either(FactorSum& sum, const Tensor& rows) {
  if (sum.wants_rows(rows.size(2))) {
    sum.add_rows(rows);
  } else {
    sum.add_product(rows);
  }
}

/// `of_weight`: where a bias is reported behind its weight with the same cotangents, the weight's.
void add_factors(KronSums& sums, const KronSums* of_weight, const Block& block, const Tensor& x,
                 const Tensor& g, const Part& part, Sharing sharing, bool selects,
                 int64_t samples) {
  const auto shape = block.value().sizes().vec();  // of a temporary
  Tensor phi, positions;  // where a polyphase layer drops some, those it keeps
  if (selects) {
    const auto kept = kept_positions(block, g);
    phi = at_positions(block.phi(x), kept);
    positions = at_positions(block.to_positions(g.flatten(0, 1)), kept.repeat({g.size(0), 1}));
  }
  const bool selected = phi.defined();
  if (!sums.started) {
    sums.started = true;
    const auto t = sharing == Sharing::kReduce ? 1
                   : selected                  ? phi.size(2)
                                               : block.phi(x.narrow(0, 0, 1)).size(2);
    sums.has_view = sharing == Sharing::kExpand && !selected &&
                    block.phi(x).storage().data() == x.storage().data();
    const auto t_out =
        sharing == Sharing::kReduce ? 1
        : selected                  ? t
                   : block.to_positions(g.narrow(0, 0, 1).narrow(1, 0, 1).flatten(0, 1)).size(2);
    sums.a = FactorSum(samples * t);
    sums.b = FactorSum(samples * t_out * part.columns);
    sums.sharing = sharing;
    sums.shape = shape;
    sums.positions_b = t_out;
    if (sharing == Sharing::kExpand && !block.is_constant())
      sums.share_b = 1.0 / static_cast<double>(t_out);
    if (of_weight && of_weight->started && are_twins(*of_weight, sums)) sums.twin = of_weight;
  }
  if (part.is_first) {  // later parts have the same inputs
    if (selected || sums.a.wants_rows(shape[2])) {
      if (!selected) phi = block.phi(x);
      const auto rows = sharing == Sharing::kReduce ? phi.mean(2) : phi.flatten(1, 2);
      add_either(sums.a, rows);
    } else if (sums.has_view) {
      sums.a.add_product(block.phi(x).flatten(1, 2));
    } else {
      sums.a.add_gram(input_factor(block, x, sharing));
    }
  }
  if (sums.twin) return;
  if (!selected) positions = block.to_positions(g.flatten(0, 1));
  const bool are_rows = positions.stride(3) == 1 || positions.size(2) == 1;
  if (sharing == Sharing::kReduce) {
    add_either(sums.b, positions.sum(2));
  } else if (are_rows || selected || sums.b.wants_rows(shape[1])) {
    add_either(sums.b, positions.flatten(1, 2));
  } else {
    sums.b.add_gram(output_factor(block, g, sharing) / sums.share_b);
  }
}

void add_trace(KronSums& sums, const Tensor& trace) {
  sums.trace = sums.trace.defined() ? sums.trace.add_(trace) : trace;
}

/// Adds up what each process has seen; matrices only, as rows of several would not add.
void sum_kron(const Processes& processes, std::vector<KronSums>& sums) {
  std::vector<Tensor> matrices;
  auto traces = torch::zeros({static_cast<int64_t>(sums.size())}, torch::kFloat64);
  for (size_t m = 0; m < sums.size(); ++m) {
    matrices.push_back(sums[m].a.as_gram());
    if (!sums[m].twin) matrices.push_back(sums[m].b.as_gram());
    if (sums[m].trace.defined()) traces[static_cast<int64_t>(m)] = sums[m].trace.cpu();
  }
  sum_symmetric_over(processes, matrices);
  sum_over(processes, {traces});
  for (size_t m = 0; m < sums.size(); ++m) sums[m].trace = traces[static_cast<int64_t>(m)];
}

}  // namespace

bool is_corrected(const CurvatureOptions& options) {
  return options.correction != Correction::kNone && options.structure == Structure::kKron;
}

void add_kron(KronSums& sums, LastReport& last, const Block& block, const Tensor& x,
              const Tensor& g, const Part& part, const CurvatureOptions& options, int64_t samples) {
  const auto before = std::exchange(last, {&block, &sums, g});
  const bool is_its_bias = before.block && before.block->bias == &block && before.g.is_same(g);
  const auto* of_weight = is_its_bias ? before.sums : nullptr;
  const bool is_elementwise = block.is_elementwise();
  const bool is_exact = options.correction != Correction::kSketch;
  if (part.is_sketch) {
    add_trace(sums, gradient_trace(block, Features(block, x), g));
    return;
  }
  if ((is_corrected(options) && is_exact) || is_elementwise) {
    if (part.is_first) sums.features = Features(block, x);
    if (is_exact) add_trace(sums, gradient_trace(block, sums.features, g));
  }
  if (is_elementwise) {  // the exact [J, J] of each group is its own factor
    const auto exact = block.value().size(2) == 1
                           ? squared_gradients(block, sums.features, g)
                           : gram(sample_gradients(block, x, g).flatten(1, 3));
    sums.a.add_gram(exact);
    if (part.is_first)
      sums.b.add_gram(torch::full({exact.size(0), 1, 1}, static_cast<double>(g.size(1)),
                                  g.options().dtype(torch::kFloat64)));
  }
  if (part.is_last) sums.features = {};
  if (is_elementwise) return;
  const auto sharing = sharing_of(block, options);
  if (reduced_copies(block, x, options) > 1)  // each copy may keep positions of its own
    add_factors(sums, of_weight, *block.one_copy(), x.mean(1), g.sum(2), part, sharing, false,
                samples);
  else
    add_factors(sums, of_weight, block, x, g, part, sharing, selects_positions(block, options),
                samples);
}

std::shared_ptr<KronCurvature> finish_kron(const std::vector<const Block*>& blocks,
                                           std::vector<KronSums>& sums, const Samples& data,
                                           const CurvatureOptions& options, Fit& fit) {
  std::vector<KronFactor> factors(blocks.size());
  std::vector<double> ratios(blocks.size(), std::numeric_limits<double>::quiet_NaN());
  const auto n = static_cast<double>(data.everywhere());
  if (data.processes) sum_kron(*data.processes, sums);
  for (size_t m = 0; m < blocks.size(); ++m) {
    auto& factor = factors[m];
    factor.a = sums[m].a.finish(1.0 / n);
    factor.b = sums[m].twin ? factors[static_cast<size_t>(sums[m].twin - sums.data())].b.times(
                                  sums[m].share_b / sums[m].twin->share_b)
                            : sums[m].b.finish(data.weight() * sums[m].share_b);
    const auto kron_trace = (factor.a.traces() * factor.b.traces()).sum().item<double>();
    const auto trace = sums[m].trace.defined() ? sums[m].trace.item<double>() * data.weight() : 0.0;
    if (!std::isfinite(kron_trace))
      throw NumericalError(
          fmt::format("{}: the curvature factors are not finite", blocks[m]->name));
    if (is_corrected(options) && trace > 0 && kron_trace > 0) {
      ratios[m] = kron_trace / trace;
      factor.correction = trace / kron_trace;
    }
  }
  auto total = data.total > 0 ? data.total : data.everywhere();
  auto kron = std::make_shared<KronCurvature>(blocks, std::move(factors), std::move(ratios), total);
  const auto* previous = dynamic_cast<const KronCurvature*>(options.previous.get());
  fit.kept_bases =
      kron->decompose(options.bases || options.structure == Structure::kEkfac, options.eigen_type,
                      data.processes, previous, options.basis_tolerance);
  return kron;
}

}  // namespace evariste
