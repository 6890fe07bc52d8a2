// The degree of equivariance of a layer: a probability density over the group (Veefkind & Cesa
// 2024, arXiv 2406.03946).
//
// A kernel is a sum over irreps psi of copies B_a that the group turns into one another,
// h.B_a = sum_a' psi(h)_a'a B_a' (groups/kernel_basis.h). Averaging any kernel over the group with
// the density lambda,
//
//     Pi[K] = int lambda(h) h.K dh   multiplies the weights of each copy by
//     lambda^(psi) = int lambda(h) psi(h) dh  [d, d]:   uniform lambda keeps what is equivariant,
//
// a delta at the identity keeps all. With w ~ N(0, 1/delta) that is a prior covariance
// lambda^ lambda^T / delta of the kernel's weights, so the evidence learns it; the training loss
// does with the penalties below.
#pragma once

#include <torch/nn/module.h>

#include "groups/fourier.h"
#include "laplace/shape.h"

namespace evariste {

/// lambda = exp(l)/Z, l band-limited with coefficients theta. Everything is float64 and has a graph
/// to theta where that wants a gradient. One object may serve several layers.
class Degree {
 public:
  /// theta [coefficients(group, band)], of any floating type: those of the non-trivial irreps; 0 is
  /// the uniform density. `resolved`: highest frequency of irreps that `expectation` is asked for.
  Degree(GroupPtr group, int band, int resolved, Tensor theta);
  static int64_t coefficients(const GroupPtr& group, int band);
  /// theta of the smoothest peak at the identity: the least norm with l(identity) = `height`.
  static Tensor peaked(const GroupPtr& group, int band, double height);

  const Tensor& theta() const { return theta_; }
  const GroupDensity& density() const { return density_; }

  /// lambda^(psi) [d, d] of all irreps with frequencies up to `resolved`, in the group's order.
  std::vector<Tensor> expectations() const;
  /// KL(lambda || uniform) >= 0, nats, [].
  Tensor divergence() const;
  /// KL(lambda || before), with `before` held fixed; both on one group. Throws UsageError
  /// otherwise.
  Tensor divergence_from(const Degree& before) const;
  /// max l - l(identity) >= 0, []: 0 where no element is likelier than the identity. Only such
  /// densities are comparable, for weights can undo a shift of lambda.
  Tensor alignment() const;

 private:
  Tensor logits() const;       // [nodes]
  Tensor log_density() const;  // [nodes]

  Tensor theta_;
  GroupDensity density_;
  Tensor to_logits_, at_identity_, weights_;  // [nodes, coefficients], [coefficients], [nodes]
  Tensor irreps_;                             // [nodes, sum d^2]
  std::vector<int64_t> sizes_;                // of the irreps
};

/// A layer that has one.
class HasDegree {
 public:
  virtual ~HasDegree() = default;
  /// Null where its kernels are not scaled.
  virtual const Degree* degree() const = 0;
};

/// Those of a network's layers that are learnt, in order.
std::vector<const Degree*> degrees_of(const torch::nn::Module& network);

/// What the learned degrees add to the mean training loss (Veefkind & Cesa 2024, section 5):
///
///     alignment sum_l align_l + previous/n sum_{l>1} KL(lambda_l || sg lambda_{l-1})
///         + uniform/n KL(lambda_1 || 1),
///
/// n degrees in all, sg without gradient. A layer that gave up a symmetry cannot get it back: the
/// second term keeps later layers from having more of it than the one before. Layers of another
/// group than the one before begin a new chain.
struct DegreePenalty {
  double alignment = 0, previous = 0, uniform = 0;
  bool is_zero() const { return alignment == 0 && previous == 0 && uniform == 0; }
  Tensor operator()(const std::vector<const Degree*>& degrees) const;
};

}  // namespace evariste
