#include "laplace/fit.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <set>

#include "core/error.h"
#include "core/nearest.h"
#include "laplace/block_index.h"
#include "laplace/cuda/recording.h"
#include "laplace/kron_sums.h"
#include "laplace/linear_sum.h"

namespace evariste {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

int64_t widest(const Tape& tape) {
  int64_t entries = tape.x.defined() ? tape.x.numel() : 0;
  for (const auto& child : tape.children) entries = std::max(entries, widest(child));
  return entries;
}

/// per_chunk(inputs x, labels y, index of the first sample), which exchanges nothing.
template <class PerChunk>
void for_each_chunk(const Samples& data, int64_t batch, const PerChunk& per_chunk) {
  torch::NoGradGuard no_grad;
  do_part(data.processes, [&] {
    for (int64_t begin = 0; begin < data.count(); begin += batch) {
      const auto count = std::min(batch, data.count() - begin);
      per_chunk(data.inputs(begin, count), data.y.narrow(0, begin, count), begin);
    }
  });
}

/// A value that steps of work read: where they are recorded, at a place that stays.
class Held {
 public:
  void set(const Tensor& value, bool stays) {
    if (!stays)
      value_ = value;
    else if (!value_.defined())
      value_ = value.clone();
    else
      value_.copy_(value);
  }
  const Tensor& operator*() const { return value_; }

 private:
  Tensor value_;
};

/// What a pass over chunks does with each: forward, then backward of columns that are made of the
/// outputs in between. Chunks of `recorded` samples (0: none) become recordings.
class ChunkPass {
 public:
  ChunkPass(Layer& network, const Likelihood& likelihood, const Samples& data, int64_t recorded)
      : network_(network),
        likelihood_(likelihood),
        data_(data),
        sums_(torch::zeros({3}, data.x.options().dtype(torch::kFloat64))),
        recorded_(recorded) {
    if (recorded > 0) steps_ = std::make_unique<cuda::RecordedSteps>(data.x.device());
  }

  /// Outputs f; adds up the likelihood.
  const Tensor& forward(const Tensor& x, const Tensor& y) {
    is_recorded_ = x.size(0) == recorded_;
    x_.set(x, is_recorded_);
    y_.set(y, is_recorded_);
    run(0, [this] {
      tape_ = {};
      f_ = network_.forward(*x_, &tape_);
      sums_ += torch::stack({likelihood_.log_density(f_, *y_).sum(torch::kFloat64),
                             likelihood_.normaliser(f_).sum(torch::kFloat64),
                             at::isfinite(f_).logical_not().sum(torch::kFloat64)});
    });
    outputs_ += f_.numel();
    return f_;
  }

  /// Of `columns` [R, n, C], `at_once` of them in one pass, and of `sketch` besides them where it
  /// is defined; visit(m, x, g, part).
  template <class Visit>
  void backward(const Tensor& columns, const Tensor& sketch, int64_t at_once,
                const BlockIndex& index, const Visit& visit) {
    columns_.set(columns, is_recorded_);
    if (sketch.defined()) sketch_.set(sketch, is_recorded_);
    run(1, [&] {
      const auto pass = [&](const Tensor& some, const Part& part) {
        const auto visit_part = [&](size_t m, const Tensor& x, const Tensor& g) {
          visit(m, x, g, part);
        };
        network_.backward(some, tape_, sink_of(index, visit_part), false);
      };
      const auto all = columns.size(0);
      for (int64_t r = 0; r < all; r += at_once)
        pass((*columns_).narrow(0, r, std::min(at_once, all - r)),
             {r == 0, r + at_once >= all, all});
      if (sketch.defined()) pass(*sketch_, {true, true, 1, true});
    });
  }

  /// This process's sums of the log density and of its normaliser, [2]. Throws NumericalError, on
  /// every process, unless all outputs were finite: to ask for each chunk would wait for the device
  /// each time.
  Tensor sums() const {
    Tensor sums;
    do_part(data_.processes, [&] {
      sums = sums_.cpu();
      if (const auto broken = sums[2].item<double>(); broken > 0)
        throw NumericalError(
            fmt::format("network outputs: expected finite numbers, found {} NaN or infinite of {}",
                        broken, outputs_));
    });
    return sums.narrow(0, 0, 2);
  }

 private:
  void run(size_t step, const std::function<void()>& work) {
    if (is_recorded_)
      steps_->run(step, work);
    else
      work();
  }

  Layer& network_;
  const Likelihood& likelihood_;
  const Samples& data_;
  Tensor sums_;  // log density, normaliser, outputs that are not finite
  int64_t recorded_, outputs_ = 0;
  bool is_recorded_ = false;  // the chunk at hand
  Tape tape_;
  Tensor f_;
  Held x_, y_, columns_, sketch_;
  std::unique_ptr<cuda::RecordedSteps> steps_;
};

/// Samples by falling number of columns, so that a chunk's samples need about the same.
struct RankedSamples {
  Samples data;
  std::vector<int64_t> ranks;  // falling
  double dropped = 0;
};

RankedSamples rank_samples(Layer& network, const Likelihood& likelihood, const Samples& data,
                           const CurvatureOptions& options, int64_t chunk) {
  torch::NoGradGuard no_grad;
  std::vector<Tensor> parts;
  for (int64_t begin = 0; begin < data.count(); begin += options.batch) {
    const auto x = data.inputs(begin, std::min(options.batch, data.count() - begin));
    const auto root = likelihood.ranked_root(network.forward(x));
    parts.push_back(root.square().sum(2).to(torch::kFloat64));  // [R, n]
  }
  const auto weights = torch::cat(parts, 1).cpu();
  const auto total = data.sum(weights.sum().item<double>());
  const auto allowed =
      options.rank_tolerance * total / static_cast<double>(std::max<int64_t>(1, data.everywhere()));
  const auto tails = weights.flip(0).cumsum(0).flip(0);  // what leaving out columns r... costs
  const auto ranks = std::get<0>((tails > allowed).sum(0).sort(0, /*descending=*/true));
  const auto order = (tails > allowed).sum(0).argsort(/*stable=*/true, 0, /*descending=*/true);
  RankedSamples out;
  out.data = data.select(order.to(data.x.device()));
  const auto* r = ranks.data_ptr<int64_t>();
  out.ranks.assign(r, r + ranks.numel());
  double kept = 0;  // a chunk keeps as many columns as its first sample needs
  const auto sums = weights.cumsum(0).index_select(1, order);
  for (int64_t i = 0; i < data.count(); ++i) {
    const auto columns = std::max<int64_t>(1, out.ranks[i / chunk * chunk]);
    kept += sums[columns - 1][i].item<double>();
  }
  kept = data.sum(kept);
  out.dropped = total > 0 ? std::max(0.0, 1 - kept / total) : 0;
  return out;
}

/// Visits each listed block of the backward passes of the Fisher's columns, visit(m, x, g, part);
/// also sums the likelihood.
template <class Visit>
void fisher_pass(Layer& network, const Likelihood& likelihood, const Samples& given,
                 const CurvatureOptions& options, const BlockIndex& index, Fit& fit,
                 const Visit& visit) {
  const bool ranked = options.rank_tolerance > 0 && options.fisher == Fisher::kExact;
  int64_t folds = options.mc_samples;
  if (options.fisher == Fisher::kEmpirical) folds = 1;
  if (options.fisher == Fisher::kExact) {
    torch::NoGradGuard no_grad;
    folds = likelihood.hessian_root(network.forward(given.inputs(0, 1))).size(0);
  }
  const auto cut = cut_pass(network, given, options.batch, folds);
  RankedSamples order;
  if (ranked) order = rank_samples(network, likelihood, given, options, cut.samples);
  const auto& data = ranked ? order.data : given;
  fit.dropped = order.dropped;
  ChunkPass pass(network, likelihood, data, options.graphs ? cut.samples : 0);
  double columns_sum = 0;
  for_each_chunk(data, cut.samples, [&](const Tensor& x, const Tensor& y, int64_t begin) {
    const auto& f = pass.forward(x, y);
    const auto columns =
        ranked ? likelihood.ranked_root(f).narrow(0, 0, std::max<int64_t>(1, order.ranks[begin]))
               : likelihood.columns(options.fisher, f, y, options.mc_samples, options.stream,
                                    data.first + begin);
    columns_sum += static_cast<double>(columns.size(0) * columns.size(1));
    Tensor sketch;
    if (options.correction == Correction::kSketch && is_corrected(options))
      sketch = likelihood.columns(Fisher::kSketch, f, y, 1, options.stream.split("trace"),
                                  data.first + begin);
    pass.backward(columns, sketch, cut.columns, index, visit);
  });
  const auto sums = torch::cat({pass.sums(), torch::full({1}, columns_sum, torch::kFloat64)});
  data.sum({sums});
  fit.log_likelihood = data.weight() * sums[0].item<double>();
  fit.normaliser = data.weight() * sums[1].item<double>();
  fit.columns =
      sums[2].item<double>() / static_cast<double>(std::max<int64_t>(1, data.everywhere()));
}

/// A second pass with the same columns, seen in the bases of the first.
std::vector<Tensor> ekfac_spectra(Layer& network, const Likelihood& likelihood, const Samples& data,
                                  const CurvatureOptions& options, const BlockIndex& index,
                                  const KronCurvature& kron) {
  const auto& blocks = kron.blocks();
  std::vector<Tensor> spectra(blocks.size());
  std::vector<Features> features(blocks.size());
  Fit counted;  // the likelihood, summed a second time
  fisher_pass(network, likelihood, data, options, index, counted,
              [&](size_t m, const Tensor& x, const Tensor& g, const Part& part) {
                const auto& f = kron.factors()[m];
                const auto type = g.scalar_type();
                if (part.is_first) features[m] = Features(*blocks[m], x, f.a.basis.to(type));
                const auto squares =
                    squared_gradients(*blocks[m], features[m], g, f.b.basis.to(type));
                if (part.is_last) features[m] = {};
                spectra[m] = spectra[m].defined() ? spectra[m].add_(squares) : squares;
              });
  data.sum(spectra);
  for (auto& spectrum : spectra) spectrum *= data.weight();
  return spectra;
}

/// g phi^T of a chunk as rows, [R n, P_m] float64.
Tensor jacobian_rows(const Block& block, const Tensor& x, const Tensor& g) {
  return sample_gradients(block, x, g)
      .to(torch::kFloat64)
      .permute({1, 2, 0, 3, 4})
      .flatten(2)
      .flatten(0, 1);
}

void expect_defined(const std::vector<const Block*>& blocks, const CurvatureOptions& options) {
  if (is_corrected(options) && options.correction == Correction::kSketch &&
      options.fisher != Fisher::kExact)
    throw UsageError(
        "correction = sketch is for fisher = exact: the others have few columns, use correction = "
        "trace");
  if (options.structure == Structure::kEkfac && options.sharing == Sharing::kReduce)
    throw UsageError(
        "structure ekfac takes the basis of sharing = expand: that of reduce is not unique where "
        "its factors are singular");
  const bool is_kron =
      options.structure == Structure::kKron || options.structure == Structure::kEkfac;
  if (options.graphs && !is_kron && options.structure != Structure::kDiag)
    throw UsageError(
        "graphs = true records sums that stay in place, those of structures kron, ekfac and diag: "
        "use one of them, or graphs = false");
  if (options.graphs && options.rank_tolerance > 0)
    throw UsageError(
        "graphs = true repeats the same work for every chunk, rank_tolerance > 0 leaves out "
        "columns: use one of the two");
  const auto* previous = dynamic_cast<const KronCurvature*>(options.previous.get());
  const auto is_alike = [](const Block* a, const Block* b) { return a->name == b->name; };
  if (options.previous && (!is_kron || !previous ||
                           !std::equal(blocks.begin(), blocks.end(), previous->blocks().begin(),
                                       previous->blocks().end(), is_alike)))
    throw UsageError(
        "options.previous keeps bases of structures kron and ekfac: both fits have to be of one of "
        "them and of the same blocks");
  if (options.bias != BiasCurvature::kExpand || !is_kron) return;
  if (options.sharing == Sharing::kReduce)
    throw UsageError("bias = expand cannot be combined with sharing = reduce: use bias = exact");
  for (const auto* block : blocks) {
    // A bias that stacks the groups (grouped convolution) couples what the weight's blocks keep
    // apart; one that all groups share (factored layers) has them as its positions.
    const auto value = block->value();
    if (block->bias && value.size(0) > 1 && !block->is_elementwise() &&
        block->bias->parameters() == value.size(0) * value.size(1))
      throw UsageError(fmt::format(
          "{}: bias = expand is not defined for grouped maps: use bias = exact", block->name));
  }
}

}  // namespace

Sharing sharing_of(const Block& block, const CurvatureOptions& options) {
  if (!block.is_bias) return options.sharing;
  return options.bias == BiasCurvature::kExpand ? Sharing::kExpand : Sharing::kReduce;
}

int64_t reduced_copies(const Block& block, const Tensor& x, const CurvatureOptions& options) {
  const bool reduces = options.copies == Sharing::kReduce && options.structure == Structure::kKron;
  return reduces && block.one_copy() ? x.size(1) : 1;
}

bool selects_positions(const Block& block, const CurvatureOptions& options) {
  return options.positions == Positions::kSelected && block.phase_stride > 1 &&
         !block.is_constant();
}

PassCut cut_pass(Layer& network, const Samples& data, int64_t batch, int64_t columns,
                 bool together) {
  constexpr int64_t kCacheBytes = 4 << 20, kUseful = 32;
  constexpr int64_t kDeviceBytes = int64_t{1} << 30;  // a GPU wants much to do at once
  torch::NoGradGuard no_grad;
  Tape tape;
  network.forward(data.inputs(0, 1), &tape);
  const auto column = widest(tape) * static_cast<int64_t>(data.x.element_size());
  const auto bytes = data.x.is_cpu() ? kCacheBytes : kDeviceBytes;
  const auto room = std::max<int64_t>(1, bytes / std::max<int64_t>(column, 1));
  for (auto* block : named_blocks(network))  // which positions count is seen from all columns
    together = together || block->phase_stride > 1;
  if (together) return {std::clamp<int64_t>(room / columns, 1, batch), columns};
  const auto at_once = std::clamp<int64_t>(room / std::min(kUseful, batch), 1, columns);
  return {std::clamp<int64_t>(room / at_once, 1, batch), at_once};
}

Samples Samples::select(const Tensor& rows) const {
  auto out = *this;
  out.x = x.index_select(0, rows);
  out.y = y.index_select(0, rows);
  if (index.defined()) out.index = index.index_select(0, rows);
  return out;
}

Tensor Samples::gather(const Tensor& rows) const {
  if (!processes) return rows;
  auto shape = rows.sizes().vec();
  shape[0] = shared;
  const auto all = torch::zeros(shape, rows.options().dtype(torch::kFloat64));
  all.narrow(0, first, count()).copy_(rows);
  sum({all});
  return all.to(rows.scalar_type());
}

Samples share_of(const Samples& whole, const Processes& processes) {
  const auto count = whole.count(), size = processes.size(), rank = processes.rank();
  if (count < size)
    throw UsageError(
        fmt::format("{} samples cannot be shared by {} processes: each needs one", count, size));
  const auto first = rank * (count / size) + std::min(rank, count % size);
  const auto share = count / size + (rank < count % size ? 1 : 0);
  auto out = whole;
  out.x = whole.x.narrow(0, first, share);
  out.y = whole.y.narrow(0, first, share);
  if (whole.index.defined()) out.index = whole.index.narrow(0, first, share);
  out.processes = &processes;
  out.first = first;
  out.shared = count;
  return out;
}

void expect_evaluation_mode(const Layer& network) {
  for (const auto& module : network.modules()) {
    const auto* layer = dynamic_cast<const Layer*>(module.get());
    if (layer && layer->is_training() && !layer->varies_in_training().empty())
      throw UsageError(fmt::format(
          "curvature of a {} layer in training mode is undefined: it draws at random or couples "
          "the samples of a batch; call eval() first",
          layer->varies_in_training()));
  }
}

namespace {

/// The blocks that `only` names, in the order of the network.
std::vector<Block*> chosen_blocks(const std::vector<Block*>& all,
                                  const std::vector<std::string>& only) {
  if (only.empty()) return all;
  const auto is_named = [](const Block& block, const std::string& name) {
    return block.name == name || block.name.rfind(name + ".", 0) == 0;
  };
  std::vector<std::string> names;
  for (const auto* block : all) names.push_back(block->name);
  for (const auto& name : only)
    if (std::none_of(all.begin(), all.end(), [&](Block* block) { return is_named(*block, name); }))
      throw UsageError(unknown_name("block", name, names));
  std::vector<Block*> out;
  for (auto* block : all)
    if (std::any_of(only.begin(), only.end(),
                    [&](const std::string& name) { return is_named(*block, name); }))
      out.push_back(block);
  return out;
}

}  // namespace

std::vector<const Block*> curvature_blocks(Layer& network, const CurvatureOptions& options,
                                           std::vector<std::shared_ptr<Block>>& owned) {
  const auto all = chosen_blocks(named_blocks(network), options.only);
  std::vector<const Block*> blocks;
  if (options.structure == Structure::kLastLayer) {
    for (auto it = all.rbegin(); it != all.rend() && blocks.empty(); ++it) {
      const auto shape = (*it)->value().sizes().vec();
      // Not a norm's or scalar layer's weights: one per group, no map between features.
      const bool is_elementwise = shape[0] > 1 && shape[1] * shape[2] == 1;
      if ((*it)->is_bias || is_elementwise) continue;
      blocks.push_back(*it);
      const bool has_bias = (*it)->bias && std::count(all.begin(), all.end(), (*it)->bias);
      if (has_bias) blocks.push_back((*it)->bias);
    }
    if (blocks.empty())
      throw UsageError("structure lastlayer: none of the chosen blocks is the weight of a map");
    return blocks;
  }
  const std::set<const Block*> listed(all.begin(), all.end());
  const auto is_joint = [&](const Block& block) {
    const bool is_norm = options.norm == NormCurvature::kJoint && block.is_elementwise();
    return listed.count(block.bias) && (options.bias == BiasCurvature::kJoint || is_norm);
  };
  std::set<const Block*> joined;
  for (const auto* block : all)
    if (is_joint(*block)) joined.insert(block->bias);
  for (auto* block : all) {
    if (joined.count(block)) continue;  // with its weight; a bias layer's own has none
    if (is_joint(*block)) {
      owned.push_back(std::make_shared<JointBlock>(*block, *block->bias));
      blocks.push_back(owned.back().get());
    } else {
      blocks.push_back(block);
    }
  }
  return blocks;
}

Fit fit_curvature(Layer& network, const Likelihood& likelihood, const Samples& data,
                  const CurvatureOptions& options) {
  expect_evaluation_mode(network);
  std::vector<std::shared_ptr<Block>> owned;
  const auto blocks = curvature_blocks(network, options, owned);
  expect_defined(blocks, options);
  const BlockIndex index(blocks);
  Fit fit;
  const auto start = Clock::now();
  const auto total = data.total > 0 ? data.total : data.everywhere();
  fit.count = data.everywhere();
  switch (options.structure) {
    case Structure::kKron:
    case Structure::kEkfac: {
      std::vector<KronSums> sums(blocks.size());
      LastReport last;
      // Rows of factors are kept where they are few; those of several processes do not add up,
      // those of recorded steps are overwritten.
      const bool keeps_rows = !data.processes && !options.graphs;
      const auto rows = keeps_rows ? data.count() : std::numeric_limits<int32_t>::max();
      fisher_pass(network, likelihood, data, options, index, fit,
                  [&](size_t m, const Tensor& x, const Tensor& g, const Part& part) {
                    add_kron(sums[m], last, *blocks[m], x, g, part, options, rows);
                  });
      fit.seconds_pass = seconds_since(start);
      const auto eigen_start = Clock::now();
      auto kron = finish_kron(blocks, sums, data, options, fit);
      fit.seconds_eigen = seconds_since(eigen_start);
      if (options.structure == Structure::kEkfac) {
        const auto again = Clock::now();
        kron->set_spectra(ekfac_spectra(network, likelihood, data, options, index, *kron));
        fit.seconds_pass += seconds_since(again);
      }
      fit.curvature = std::move(kron);
      break;
    }
    case Structure::kDiag: {
      std::vector<Tensor> diagonals;
      std::vector<Features> features(blocks.size());
      for (const auto* block : blocks)
        diagonals.push_back(
            torch::zeros(block->value().sizes(), data.x.options().dtype(torch::kFloat64)));
      fisher_pass(network, likelihood, data, options, index, fit,
                  [&](size_t m, const Tensor& x, const Tensor& g, const Part& part) {
                    if (part.is_first) features[m] = Features(*blocks[m], x);
                    diagonals[m] += squared_gradients(*blocks[m], features[m], g) * data.weight();
                    if (part.is_last) features[m] = {};
                  });
      data.sum(diagonals);
      fit.seconds_pass = seconds_since(start);
      fit.curvature = std::make_shared<DiagonalCurvature>(blocks, std::move(diagonals), total);
      break;
    }
    case Structure::kBlock: {
      std::vector<Tensor> hessians(blocks.size());
      std::map<size_t, LinearSum> linear;  // weights with one position per sample
      fisher_pass(network, likelihood, data, options, index, fit,
                  [&](size_t m, const Tensor& x, const Tensor& g, const Part&) {
                    const auto& block = *blocks[m];
                    if (LinearSum::applies({&block}, g)) {
                      linear.try_emplace(m, block, false).first->second.add(block, x, g);
                      return;
                    }
                    const auto rows = jacobian_rows(block, x, g);
                    if (!hessians[m].defined())
                      hessians[m] = torch::zeros({rows.size(1), rows.size(1)}, rows.options());
                    hessians[m].addmm_(rows.t(), rows, 1.0, data.weight());
                  });
      while (!linear.empty()) {
        auto& [m, sum] = *linear.begin();
        hessians[m] = sum.total(data.weight());
        linear.erase(linear.begin());
      }
      if (data.processes)
        for (auto& hessian : hessians) sum_symmetric_over(*data.processes, {hessian.unsqueeze(0)});
      fit.seconds_pass = seconds_since(start);
      fit.curvature = std::make_shared<BlockCurvature>(blocks, std::move(hessians), total);
      break;
    }
    case Structure::kFull:
    case Structure::kLastLayer: {
      int64_t p = 0;
      for (const auto* block : blocks) p += block->parameters();
      auto hessian = torch::zeros({p, p}, data.x.options().dtype(torch::kFloat64));
      std::vector<Tensor> parts(blocks.size());
      size_t seen = 0;
      std::unique_ptr<LinearSum> linear;  // the last layer, where each sample has one position
      fisher_pass(network, likelihood, data, options, index, fit,
                  [&](size_t m, const Tensor& x, const Tensor& g, const Part&) {
                    if (!linear && m == 0 && LinearSum::applies(blocks, g))
                      linear = std::make_unique<LinearSum>(*blocks[0], blocks.size() > 1);
                    if (linear) {
                      if (m == 0) linear->add(*blocks[0], x, g);
                      return;
                    }
                    parts[m] = jacobian_rows(*blocks[m], x, g);
                    if (++seen < blocks.size()) return;
                    seen = 0;
                    const auto jacobian = torch::cat(parts, 1);
                    hessian.addmm_(jacobian.t(), jacobian, 1.0, data.weight());
                  });
      if (linear) hessian = linear->total(data.weight());
      if (data.processes) sum_symmetric_over(*data.processes, {hessian.unsqueeze(0)});
      fit.seconds_pass = seconds_since(start);
      fit.curvature = std::make_shared<DenseCurvature>(
          blocks, hessian, total, options.structure == Structure::kFull ? "full" : "lastlayer");
      break;
    }
  }
  fit.curvature->keep(std::move(owned));
  return fit;
}

Gradient log_likelihood_gradient(Layer& network, const Likelihood& likelihood, const Samples& data,
                                 const std::vector<const Block*>& blocks, int64_t batch) {
  const BlockIndex index(blocks);
  Gradient out;
  for (const auto* block : blocks) out.blocks.push_back(torch::zeros_like(block->value()));
  ChunkPass pass(network, likelihood, data, 0);
  for_each_chunk(data, cut_pass(network, data, batch, 1).samples,
                 [&](const Tensor& x, const Tensor& y, int64_t) {
                   const auto& f = pass.forward(x, y);
                   const auto add = [&](size_t m, const Tensor& at, const Tensor& g, const Part&) {
                     out.blocks[m] += blocks[m]->gradient(at, g[0]);
                   };
                   pass.backward(likelihood.score(f, y).unsqueeze(0), {}, 1, index, add);
                 });
  out.log_likelihood = pass.sums()[0].item<double>();
  data.sum(out.blocks);
  out.log_likelihood = data.sum(out.log_likelihood);
  for (size_t m = 0; m < blocks.size(); ++m) {
    out.blocks[m] *= data.weight();
    expect_finite(out.blocks[m], "gradient of the log-likelihood in " + blocks[m]->name);
  }
  out.log_likelihood *= data.weight();
  return out;
}

std::vector<double> fisher_traces(Layer& network, const Likelihood& likelihood, const Samples& data,
                                  const CurvatureOptions& options) {
  std::vector<std::shared_ptr<Block>> owned;
  const auto blocks = curvature_blocks(network, options, owned);
  std::vector<double> traces(blocks.size(), 0.0);
  Fit fit;
  fisher_pass(network, likelihood, data, options, BlockIndex(blocks), fit,
              [&](size_t m, const Tensor& x, const Tensor& g, const Part&) {
                traces[m] += gradient_trace(*blocks[m], Features(*blocks[m], x), g).item<double>() *
                             data.weight();
              });
  auto sums = torch::tensor(traces, torch::kFloat64);
  data.sum({sums});
  for (size_t m = 0; m < traces.size(); ++m)
    traces[m] = sums[static_cast<int64_t>(m)].item<double>();
  return traces;
}

}  // namespace evariste
