// Posterior precision P = h H + P0 of a network's blocks: what evidence, posterior and training
// steps ask of a curvature, whatever its structure.
//
// H is the GGN summed over the data set, h = curvature_scale / temperature, P0 the prior precision:
// one number per block, or one per entry [Q, O, J] where the structure allows it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/stream.h"
#include "laplace/block.h"

namespace evariste {

/// Prior precision of each block, float64: [] or [Q, O, J].
using Precisions = std::vector<Tensor>;

/// log|P| - log|P0| of one block and its derivatives in rho = log delta.
struct LogDet {
  double ratio = 0;      ///< nats; NaN where the structure couples blocks (full, last layer)
  double effective = 0;  ///< gamma = sum lambda / (lambda + delta) = -d ratio / d rho
  double slope = 0;  ///< -d gamma / d rho = sum lambda delta / (lambda + delta)^2 at fixed others
  Tensor entries;    ///< gamma of each entry [Q, O, J], where a prior per entry is possible
  Tensor entry_slopes;  ///< -d gamma_i / d rho_i likewise
};

class Curvature {
 public:
  virtual ~Curvature() = default;

  /// The blocks it covers, in order; all methods take and give one item per block.
  const std::vector<const Block*>& blocks() const { return blocks_; }
  std::vector<double> trace_ratios() const { return trace_ratios_; }

  virtual std::vector<LogDet> log_det(const Precisions& precisions) const = 0;
  /// Sum of the ratios; for coupled structures the only one there is.
  virtual double log_det_ratio(const Precisions& precisions) const;
  /// (h H + P0 + damping)^-1 g, each [Q, O, J].
  virtual std::vector<Tensor> solve(const std::vector<Tensor>& g, const Precisions& precisions,
                                    double damping = 0) const = 0;
  /// g^T P^-1 g over all blocks.
  virtual double inverse_norm(const std::vector<Tensor>& g, const Precisions& precisions) const;
  /// A draw of N(0, P^-1), each [Q, O, J]. Deterministic in `stream`.
  virtual std::vector<Tensor> sample(const Precisions& precisions, const Stream& stream) const = 0;
  /// J P^-1 J^T, [n, C, C]: covariance of the linearised outputs, from the input x [n, ...] and the
  /// cotangents g [C, n, ...] of the canonical basis at every block, in order.
  struct Visit {
    const Block* block;
    Tensor x, g;  // [n, ...], [C, n, ...]
  };
  virtual Tensor output_covariance(const std::vector<Visit>& visits,
                                   const Precisions& precisions) const = 0;
  /// How a loss that depends on V = J P^-1 J^T answers to the prior: for each block
  /// sum_n <loss_n, dV_n/d log delta>, all its precisions growing by one factor,
  ///   dV/d log delta_m = -J P^-1 P0_m P^-1 J^T;
  /// loss [n, C, C] float64, the loss's derivative in V.
  virtual std::vector<double> covariance_slopes(const std::vector<Visit>& visits,
                                                const Precisions& precisions,
                                                const Tensor& loss) const = 0;
  /// Throws UsageError where a prior with one precision per entry cannot be combined.
  virtual bool takes_entry_precisions() const = 0;
  virtual std::string_view structure() const = 0;

  /// h = curvature_scale / temperature.
  double scale() const { return scale_; }
  virtual void set_scale(double scale) { scale_ = scale; }
  /// Blocks made for this curvature (joint ones), kept as long as it lives.
  void keep(std::vector<std::shared_ptr<Block>> owned) { owned_ = std::move(owned); }
  /// Number of samples H is summed over (after rescaling a subset).
  int64_t samples() const { return samples_; }

 protected:
  Curvature(std::vector<const Block*> blocks, int64_t samples)
      : blocks_(std::move(blocks)),
        trace_ratios_(blocks_.size(), std::numeric_limits<double>::quiet_NaN()),
        samples_(samples) {}

  std::vector<const Block*> blocks_;
  std::vector<std::shared_ptr<Block>> owned_;
  std::vector<double> trace_ratios_;
  double scale_ = 1.0;
  int64_t samples_;
};

/// Standard normal numbers in the shape of `like`, float64, of `stream`.
Tensor normal_draws(const Tensor& like, const Stream& stream);

}  // namespace evariste
