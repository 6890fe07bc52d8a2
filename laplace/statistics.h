// Sums over a chunk of samples that every curvature structure is made of.
//
// Per-sample gradient of column r:  G[r, n, q, o, j] = sum_t g[r, n, q, t, o] phi[n, q, t, j].
#pragma once

#include "laplace/block.h"

namespace evariste {

enum class Sharing {
  kExpand,  ///< positions are independent samples: (1/T) sum_t g g^T, sum_t phi phi^T
  kReduce,  ///< positions are summed first: (sum_t g)(sum_t g)^T, mean_t phi
};

/// x [Q, .., T, D] times [Q, D, K], each group's own; all of a group in one product where they lie
/// so: broadcast, each sample would be a product of its own, for T = 1 a vector with a matrix.
Tensor times_each(const Tensor& x, const Tensor& matrices);

/// How many entries to work on at once where what is made of them is read again: what a CPU's cache
/// holds, on other devices enough for them.
int64_t cached_entries(const Tensor& like);

/// Symmetric [Q, J, J] with its features in the order in which the block gathers them.
Tensor as_gathered(const Block& block, const Tensor& matrix);

/// Positions [n, T'] of the phase that the polyphase layer behind a block keeps: of the s x s
/// phases of g [R, n, O, H, W], the only one that is not zero; for g [R, n, K, O, H, W] of each of
/// the K uses.
Tensor kept_positions(const Block& block, const Tensor& g);
/// from [Q, n, T, J] at the positions [n, T'].
Tensor at_positions(const Tensor& from, const Tensor& index);

/// Kronecker input factor, [Q, J, J] float64: sum_{n,t} phi phi^T, or sum_n mean_t mean_t^T.
Tensor input_factor(const Block& block, const Tensor& x, Sharing sharing);

/// Kronecker output factor, [Q, O, O] float64, of g [R, n, ...]: (1/T) sum g g^T, or of sums over
/// t.
Tensor output_factor(const Block& block, const Tensor& g, Sharing sharing);

/// Per-sample gradients [Q, R, n, O, J]: memory R n P, so for tiles and for `full` only.
Tensor sample_gradients(const Block& block, const Tensor& x, const Tensor& g);

/// Features of some samples for sums over all their columns: gathered once, where they are needed,
/// and used for every part of a backward pass.
class Features {
 public:
  Features() = default;
  /// With basis_a [Q, J, k_A] coordinates in it.
  Features(const Block& block, const Tensor& x, const Tensor& basis_a = {});

  /// [Q, n, T, J], in the order of Block::gathered; or coordinates.
  const Tensor& values() const;
  /// Of the block's features; undefined for coordinates.
  const Tensor& order() const { return order_; }
  /// Block::squared_gradients_of; null for coordinates.
  const std::function<Tensor(const Tensor&)>& squares() const { return squares_; }

 private:
  const Block* block_ = nullptr;
  Tensor x_, basis_, order_;
  std::function<Tensor(const Tensor&)> squares_;
  mutable Tensor values_;
};

/// sum_{r,n} (U_B^T G U_A) o (..), [Q, k_B, k_A] float64: the diagonal of the block in a basis,
/// undefined bases standing for the identity; U_A is that of the features. One GEMM of squares
/// where T = 1.
Tensor squared_gradients(const Block& block, const Features& features, const Tensor& g,
                         const Tensor& basis_b = {});

/// sum_{r,n} |G|^2_F: the exact trace of the block. Where T = 1 a product of norms; else by
/// per-sample gradients or by the Gram form sum_{t,t'} (phi_t . phi_t')(g_t . g_t'), the cheaper.
/// A number [] float64 on the device, which nobody waits for.
Tensor gradient_trace(const Block& block, const Features& features, const Tensor& g);

/// J Sigma J^T summed over the entries of a block whose covariance is diagonal in the bases
/// (U_B, U_A):  out[n, c, d] += sum_{q,i,j} s[q,i,j] (U_B^T G_c U_A)_ij (U_B^T G_d U_A)_ij,
/// for g [C, n, ...]; undefined bases stand for the identity. s [Q, O, J], U_B [Q, O, O], U_A [Q,
/// J, J].
void add_output_covariance(const Block& block, const Tensor& x, const Tensor& g, const Tensor& s,
                           const Tensor& basis_b, const Tensor& basis_a, Tensor& out);

}  // namespace evariste
