// K-FAC steps towards the mode of p(theta | D): evidence is a number about a mode.
//
//   F(theta) = -log p(D|theta)/tau - sum_m log p(theta_m)
//   theta <- theta - s P^-1 dF/dtheta,   P = H/(sigma^2 tau) + P0,   s = 1, 1/2, 1/4, ...
//
// A Gaussian normaliser is not divided by tau. Full batch; s is halved until F falls, and on while
// it falls further (one step may overshoot to the other side of a valley and still go down). The
// curvature is fitted afresh for each step (Martens & Grosse 2015 with the prior as the only
// damping). One step is exact where the model is linear with Gaussian noise and H is full.
#pragma once

#include "laplace/evidence.h"

namespace evariste {

struct PolishStep {
  double objective = 0;  ///< F after the step, nats
  double length = 0;     ///< s that was taken; 0: no length lowered F, the weights are as before
};

/// At most `steps` of them, ending after one of length 0. Moves the weights of the blocks that
/// `options` name (for the last layer, only these); `priors` in their order, held fixed.
/// Not lowering F is a result; a gradient that is not finite is a NumericalError.
/// Cost per step: a fit with bases, a gradient pass, a forward pass for each length tried.
std::vector<PolishStep> polish(Layer& network, const Likelihood& likelihood, const Samples& data,
                               const Priors& priors, double temperature, CurvatureOptions options,
                               int64_t steps);

}  // namespace evariste
