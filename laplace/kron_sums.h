// What a pass of fit_curvature adds up for Kronecker factors, block by block.
#pragma once

#include "laplace/fit.h"

namespace evariste {

/// Which columns of its samples a backward pass had, and of how many.
struct Part {
  bool is_first, is_last;
  int64_t columns;
  bool is_sketch = false;  ///< one random column besides them, for the traces
};

bool is_corrected(const CurvatureOptions& options);

/// Sums of one block of a Kronecker fit.
struct KronSums {
  FactorSum a, b;
  Tensor trace;  // [] float64, where it is asked for
  bool started = false;
  bool has_view = false;  // phi(x) is x itself, seen as rows
  Features features;      // of the samples at hand, for all their columns
  Sharing sharing = Sharing::kExpand;
  std::vector<int64_t> shape;  // [Q, O, J]
  int64_t positions_b = 0;
  double share_b = 1;  // of the sum in b: 1/T of weights that expand
  /// Of a bias: the weight whose b has the same sum, so that it is taken once.
  const KronSums* twin = nullptr;
};

/// What a backward pass reported last: a layer's bias comes right behind its weight.
struct LastReport {
  const Block* block = nullptr;
  const KronSums* sums = nullptr;
  Tensor g;
};

/// Adds the report (x, g) of a block. `samples`: of the whole pass, for whether to keep rows;
/// `last` belongs to the pass and starts empty.
void add_kron(KronSums& sums, LastReport& last, const Block& block, const Tensor& x,
              const Tensor& g, const Part& part, const CurvatureOptions& options, int64_t samples);

/// The curvature of all sums, decomposed; `data` has seen them, on all processes. Sets kept_bases.
std::shared_ptr<KronCurvature> finish_kron(const std::vector<const Block*>& blocks,
                                           std::vector<KronSums>& sums, const Samples& data,
                                           const CurvatureOptions& options, Fit& fit);

}  // namespace evariste
