// What a fit will need, stage by stage, said before anything is allocated.
#pragma once

#include "core/error.h"
#include "laplace/fit.h"

namespace evariste {

/// One part of a fit: what it holds in memory at once, and its multiplications and additions.
struct PlannedStage {
  std::string name;
  double bytes = 0, flops = 0;
};

/// Stages of fit_curvature:
///
///   pass        n (tape + 2 (R + 1) widest): n samples, R cotangents of each at once (cut_pass)
///               + a tile of per-sample gradients for diag and ekfac where positions are shared,
///               + the features of shared blocks for the exact trace of kron,
///               + the Jacobian of n samples where the structure is dense,
///               + the cotangents of all uses of layers that are repeated.
///               Flops of all samples: a forward, R backwards down to the lowest block, the sums
///               of every block; symmetric products are half of what they would be otherwise.
///               Maps without weights are not counted, nor that a polyphase layer drops positions
///   curvature   float64. kron Q (J^2 + O^2) per block, twice with eigenvectors, ekfac P more;
///               diag P; block sum P_m^2; full P^2
///   eigen       kron 4 D^2 of the widest factor D; block and full 4 P^2 of the largest matrix.
///               Flops 9 D^3 with eigenvectors, 4/3 D^3 without; dense 1/3 P^3, a Cholesky
struct CurvaturePlan {
  std::vector<PlannedStage> stages;
  /// The curvature and the largest of what is there beside it: pass, eigen, or what comes after.
  double bytes(double after = 0) const;
  double flops() const;
};

/// Bytes of `samples` on a tape with `columns` cotangents each. One sample goes through the
/// network.
double pass_bytes(Layer& network, const Samples& data, int64_t samples, int64_t columns);

/// One sample goes through the network.
CurvaturePlan plan_curvature(Layer& network, const Likelihood& likelihood, const Samples& data,
                             const CurvatureOptions& options);

/// A fit that needs more than it may have.
struct BudgetExceeded : UsageError {
  BudgetExceeded(const CurvaturePlan& plan, double budget_bytes, std::string_view structure,
                 const std::string& suggestion);
  double needed_bytes, available_bytes;
};

/// Throws BudgetExceeded, with a structure that fits or a smaller batch, where the plan needs more
/// than `budget_bytes`. `has_entry_precisions`: the prior rules out Kronecker factors.
void expect_within(const CurvaturePlan& plan, double budget_bytes, Layer& network,
                   const Likelihood& likelihood, const Samples& data,
                   const CurvatureOptions& options, bool has_entry_precisions = false);

/// Four fifths of the memory that the device has free now; the machine's is shared with torchrun's
/// other processes.
double default_budget_bytes(torch::Device device = torch::kCPU);

}  // namespace evariste
