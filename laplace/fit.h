// One pass over the data that fits a curvature: forward, folded backward of the columns of the
// output Hessian's root, sums per block. No weight gradient, no autograd graph, no [N, C, P]
// tensor; the dense structures hold the Jacobian of one chunk.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "laplace/dense.h"
#include "laplace/diagonal.h"
#include "laplace/kron.h"
#include "laplace/layer.h"
#include "laplace/likelihood.h"
#include "laplace/processes.h"
#include "laplace/statistics.h"

namespace evariste {

/// What a network sees of samples x [n, ...] that are known by index [n] (int64): copies of images,
/// [n, K, ...], that depend on nothing but the image, its index and hyper-parameters.
using View = std::function<Tensor(const Tensor& x, const Tensor& index)>;

/// A data set, or the part of one that stands for `total` samples (0: for itself). With `processes`
/// this process's share of it: whatever is summed over Samples is summed over all processes.
struct Samples {
  Tensor x, y;  ///< [M, ...] and labels [M] or [M, C]
  int64_t total = 0;
  const Processes* processes = nullptr;
  int64_t first = 0;   ///< index of the share's first sample in the whole
  int64_t shared = 0;  ///< samples of all shares
  View view = {};      ///< empty: the network sees x as it is
  Tensor index = {};   ///< [M], for the view

  int64_t count() const { return x.size(0); }
  /// What the network sees of `count` samples from `begin` on.
  Tensor inputs(int64_t begin, int64_t count) const {
    const auto part = x.narrow(0, begin, count);
    return view ? view(part, index.narrow(0, begin, count)) : part;
  }
  /// The samples `rows` [m] int64 in this order, standing for what all of these stood for.
  Samples select(const Tensor& rows) const;
  int64_t everywhere() const { return processes ? shared : count(); }
  double weight() const {
    return total > 0 ? static_cast<double>(total) / static_cast<double>(everywhere()) : 1.0;
  }
  /// Adds up over the processes, where there are several.
  void sum(const std::vector<Tensor>& tensors) const {
    if (processes) sum_over(*processes, tensors);
  }
  double sum(double value) const { return processes ? sum_over(*processes, value) : value; }
  /// One large contiguous tensor in its own precision, without copies.
  void sum_in_place(Tensor tensor) const {
    if (processes) processes->sum(tensor);
  }
  /// From one row per sample, [count, ...], the rows of all shares, [shared, ...].
  Tensor gather(const Tensor& rows) const;
};

/// This process's share of the whole: as many samples for each, the first ranks one more. Throws
/// UsageError where there are more processes than samples.
Samples share_of(const Samples& whole, const Processes& processes);

enum class Structure { kKron, kEkfac, kDiag, kBlock, kFull, kLastLayer };
/// Whether Kronecker blocks are scaled to the trace of the exact Fisher.
enum class Correction {
  kTrace,   ///< the exact trace; for shared weights a weight gradient for every column
  kSketch,  ///< from one random column per sample: unbiased, relative error about 1/sqrt(N)
  kNone,
};
enum class BiasCurvature {
  kExact,   ///< sums over positions first: the exact block
  kExpand,  ///< positions as independent samples, as reference codes do
  kJoint,   ///< weight and bias as one block over [phi; 1]
};

/// Curvature of a norm's weight and bias, one of each per channel, in Kronecker structures.
enum class NormCurvature {
  kDiag,   ///< blocks of their own: the exact diagonal
  kJoint,  ///< one block: 2 x 2 for each channel, exact (the whole block with structure block)
};

/// Positions of a convolution right before a polyphase layer: those of the phase each sample keeps
/// (the others have no gradient; default), or all, as the reference code counts them.
enum class Positions { kSelected, kAll };

struct CurvatureOptions {
  Structure structure = Structure::kKron;
  /// Blocks it covers, by name ("2.weight") or by layer ("2", "2.0"); empty: all. The others are
  /// held at their values, and their weights are no part of evidence or posterior.
  std::vector<std::string> only;
  Fisher fisher = Fisher::kExact;
  int64_t mc_samples = 1;
  Sharing sharing = Sharing::kExpand;
  Correction correction = Correction::kTrace;
  BiasCurvature bias = BiasCurvature::kExact;
  NormCurvature norm = NormCurvature::kDiag;
  /// Copies of a sample whose outputs are averaged (nn/averaged.h), in the factors of kron.
  /// Reduced: features are averaged and cotangents summed over them before positions are looked at;
  /// expanded: they are positions like others. The basis of ekfac is always expanded.
  Sharing copies = Sharing::kReduce;
  Positions positions = Positions::kSelected;
  int64_t batch = 250;  ///< samples per chunk; results do not depend on it
  /// Forward and backward of a chunk as CUDA graphs (cuda/recording.h), for networks of many small
  /// layers, which wait for kernels to start. Structures kron, ekfac and diag; nothing changes on
  /// the CPU.
  bool graphs = false;
  /// Exact Fisher only: each sample keeps the fewest columns of its root that leave out at most
  /// this part of the mean trace of Lambda. Confident samples keep one or none of C - 1, so a
  /// trained network's fit is several times cheaper; what is left out is positive, so the factors
  /// are too small by at most that part (Fit::dropped). 0: all columns.
  double rank_tolerance = 0;
  Stream stream = Stream(0);                       ///< of the Monte Carlo labels
  bool bases = true;                               ///< eigenvectors, for all but the evidence
  torch::ScalarType eigen_type = torch::kFloat64;  ///< arithmetic of the decomposition
  /// Structures kron and ekfac: one of the same blocks at weights near these, as of the epoch
  /// before, and how much of a factor its basis may leave off the diagonal for it to be kept
  /// instead of decomposing anew (SymmetricFactor::keep_basis; 1e-3 is a cautious value).
  std::shared_ptr<const Curvature> previous;
  double basis_tolerance = 0;
};

/// What a fit leaves: the curvature and the log-likelihood of the same pass.
struct Fit {
  std::shared_ptr<Curvature> curvature;
  int64_t count = 0;          ///< samples that were seen; the curvature may stand for more
  double log_likelihood = 0;  ///< sum over the data set, nats (rescaled for a subset)
  double normaliser = 0;      ///< the part a temperature does not divide
  double dropped = 0;         ///< part of sum tr Lambda that rank_tolerance left out
  double columns = 0;         ///< backward passes per sample, mean
  int64_t kept_bases = 0;     ///< of CurvatureOptions::previous
  double seconds_pass = 0, seconds_eigen = 0;
};

/// Blocks the options ask for, in order: all; the last layer's; joint ones in place of pairs. The
/// returned blocks are owned by `owned` where they are made here.
std::vector<const Block*> curvature_blocks(Layer& network, const CurvatureOptions& options,
                                           std::vector<std::shared_ptr<Block>>& owned);

/// Whether positions of a block are independent samples: biases have an option of their own.
Sharing sharing_of(const Block& block, const CurvatureOptions& options);

/// Copies that are averaged before the factors of a block see them, of inputs x [n, K, ...]: K, or
/// 1 where there are none or they are positions like others.
int64_t reduced_copies(const Block& block, const Tensor& x, const CurvatureOptions& options);

/// Whether the factors of a block see only the positions that a polyphase layer behind it keeps.
bool selects_positions(const Block& block, const CurvatureOptions& options);

/// How a pass is cut: samples per forward, and columns per backward of them.
struct PassCut {
  int64_t samples, columns;
};

/// At most `batch` samples, such that the widest cotangent of a backward stays in the cache: beyond
/// it memory traffic and page faults outweigh the arithmetic of convolutions; on a GPU in 1 GiB.
/// Where all columns of a useful number of samples are too many, a few columns at a time, unless
/// they are needed `together`.
PassCut cut_pass(Layer& network, const Samples& data, int64_t batch, int64_t columns,
                 bool together = false);

/// Fits the curvature of `network` in evaluation mode. Throws UsageError for combinations that are
/// undefined, NumericalError where a factor is not finite, naming the block.
Fit fit_curvature(Layer& network, const Likelihood& likelihood, const Samples& data,
                  const CurvatureOptions& options);

/// Sum over the data of d log p / d theta for each block, [Q, O, J] in the network's precision, and
/// the log-likelihood of the same pass.
struct Gradient {
  std::vector<Tensor> blocks;
  double log_likelihood = 0;
};
Gradient log_likelihood_gradient(Layer& network, const Likelihood& likelihood, const Samples& data,
                                 const std::vector<const Block*>& blocks, int64_t batch);

/// tr F of each block: the exact trace of the Fisher the options name.
std::vector<double> fisher_traces(Layer& network, const Likelihood& likelihood, const Samples& data,
                                  const CurvatureOptions& options);

/// Refuses layers whose curvature is undefined in their present mode (BatchNorm or dropout in
/// training mode) by throwing UsageError.
void expect_evaluation_mode(const Layer& network);

}  // namespace evariste
