// What the linearised network f + J (theta - theta*) says at several points together: covariances
// of its outputs between points, under the prior (the neural tangent kernel) and under the
// posterior.
#pragma once

#include "laplace/evidence.h"

namespace evariste {

/// J(x) P0^-1 J(other)^T, [n, C, m, C]: the covariance of the outputs at x [n, ...] and other [m,
/// ...] under the prior; with precisions of one the empirical neural tangent kernel (Jacot et al.
/// 2018). `precisions` of `blocks`, a number or [Q, O, J] each.
///
/// A block whose weights are not shared and have one precision takes two Gram matrices, (phi
/// phi'^T) o (g g'^T), n m (J + C^2 O) multiplications; others the per-sample gradients of two
/// chunks of `batch` samples, n m C^2 P_m. Memory: the result and two chunks.
Tensor prior_covariance(Layer& network, const Tensor& x, const Tensor& other,
                        const std::vector<const Block*>& blocks, const Precisions& precisions,
                        int64_t batch = 16);

/// J(x) P^-1 J(other)^T, [n, C, m, C]: the same under the posterior, for every structure. For each
/// of the n C outputs at x a gradient, a solve, and a forward derivative over `other`: give the
/// smaller set as x. No Jacobian is formed.
Tensor posterior_covariance(Layer& network, const Tensor& x, const Tensor& other,
                            const Curvature& curvature, const Priors& priors, int64_t batch = 250);

}  // namespace evariste
