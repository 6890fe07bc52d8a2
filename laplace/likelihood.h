// What the network's output f means: log p(y|f), and a closed-form root of its Hessian in f.
//
// H = sum_n J_n^T Lambda_n J_n needs columns s with sum_r s_r s_r^T = Lambda = -d2 log p / df2.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "core/stream.h"
#include "laplace/shape.h"

namespace evariste {

enum class Fisher {
  kExact,       ///< closed-form root, C-1 columns for softmax
  kMonteCarlo,  ///< labels drawn from the model; unbiased
  kEmpirical,   ///< the observed labels; not a curvature estimate near the optimum
  kSketch,      ///< random signs over the columns of the exact root; unbiased, quieter than labels
};

class Likelihood {
 public:
  virtual ~Likelihood() = default;

  /// log p(y_n | f_n) [n], nats. f [n, C]; y int64 [n] or float [n, C].
  virtual Tensor log_density(const Tensor& f, const Tensor& y) const = 0;
  /// d log p(y_n | f_n) / d f_n, [n, C]
  virtual Tensor score(const Tensor& f, const Tensor& y) const = 0;
  /// Lambda_n [n, C, C]
  virtual Tensor hessian(const Tensor& f) const = 0;
  /// Orthonormal rows [R, C] whose span holds the range of Lambda_n whatever f_n: softmax leaves
  /// the direction of equal shifts out.
  virtual Tensor hessian_span(int64_t outputs, const torch::TensorOptions& options) const {
    return torch::eye(outputs, options);
  }
  /// Columns [R, n, C] with sum_r s_r s_r^T = curvature_scale()^-1 Lambda.
  virtual Tensor hessian_root(const Tensor& f) const = 0;
  /// A root whose first columns hold as much of each sample's Lambda as they can in closed form:
  /// softmax takes the classes by falling probability. The same number of columns.
  virtual Tensor ranked_root(const Tensor& f) const { return hessian_root(f); }
  /// A label drawn from p(. | f_n) for each of `draws`, its score / sqrt(draws): [S, n, C], in the
  /// units of hessian_root. The draw of sample `first + i` depends on (stream, first + i) only.
  virtual Tensor sampled_scores(const Tensor& f, int64_t draws, const Stream& stream,
                                int64_t first) const = 0;
  /// Log density of labels that ignore the input ("class frequencies"), per datum: what a dead
  /// network reaches. y are all labels.
  virtual double baseline(const Tensor& y, int64_t outputs) const = 0;

  /// Factor of H kept apart so that the noise can change without a new fit: 1/sigma^2 (Gaussian).
  virtual double curvature_scale() const { return 1.0; }
  /// The part of log_density that a temperature does not divide: the Gaussian normaliser.
  virtual Tensor normaliser(const Tensor& f) const;
  /// Predictive probabilities (classification, Bernoulli) or means of f [n, C].
  virtual Tensor predict(const Tensor& f) const = 0;
  virtual std::string_view name() const = 0;
  virtual bool is_regression() const { return false; }
  /// Throws UsageError unless y can be labels of outputs [n, outputs].
  virtual void check_labels(const Tensor& y, int64_t outputs) const = 0;

  /// Columns for one chunk, [R, n, C]; see Fisher. `first` is the index of the chunk's first
  /// sample.
  Tensor columns(Fisher fisher, const Tensor& f, const Tensor& y, int64_t draws,
                 const Stream& stream, int64_t first) const;
};

/// p = softmax f; Lambda = diag p - p p^T, root of rank C - 1:
/// with q_j = sum_{i>j} p_i,  s_j[j] = sqrt(p_j q_j / q_{j-1}),  s_j[i>j] = -p_i sqrt(p_j /
/// (q_{j-1} q_j)).
class Softmax : public Likelihood {
 public:
  Tensor log_density(const Tensor& f, const Tensor& y) const override;
  Tensor score(const Tensor& f, const Tensor& y) const override;
  Tensor hessian(const Tensor& f) const override;
  Tensor hessian_span(int64_t outputs, const torch::TensorOptions& options) const override;
  Tensor hessian_root(const Tensor& f) const override;
  Tensor ranked_root(const Tensor& f) const override;
  Tensor sampled_scores(const Tensor& f, int64_t draws, const Stream& stream,
                        int64_t first) const override;
  double baseline(const Tensor& y, int64_t outputs) const override;
  Tensor predict(const Tensor& f) const override { return f.softmax(1); }
  std::string_view name() const override { return "classification"; }
  void check_labels(const Tensor& y, int64_t outputs) const override;
};

/// N(y; f, sigma^2 I). Curvature is stored with Lambda = I; curvature_scale() = 1/sigma^2.
class Gaussian : public Likelihood {
 public:
  explicit Gaussian(double noise = 1.0);

  Tensor log_density(const Tensor& f, const Tensor& y) const override;
  Tensor score(const Tensor& f, const Tensor& y) const override;
  Tensor hessian(const Tensor& f) const override;
  Tensor hessian_root(const Tensor& f) const override;
  Tensor sampled_scores(const Tensor& f, int64_t draws, const Stream& stream,
                        int64_t first) const override;
  double baseline(const Tensor& y, int64_t outputs) const override;
  double curvature_scale() const override { return 1.0 / (noise_ * noise_); }
  Tensor normaliser(const Tensor& f) const override;
  Tensor predict(const Tensor& f) const override { return f; }
  std::string_view name() const override { return "regression"; }
  bool is_regression() const override { return true; }
  void check_labels(const Tensor& y, int64_t outputs) const override;

  double noise() const { return noise_; }  ///< sigma, standard deviation
  void set_noise(double noise);

 private:
  double noise_;
};

/// Independent labels y in [0, 1] (soft labels allowed), s = sigmoid f; Lambda = diag s(1-s).
class Bernoulli : public Likelihood {
 public:
  Tensor log_density(const Tensor& f, const Tensor& y) const override;
  Tensor score(const Tensor& f, const Tensor& y) const override;
  Tensor hessian(const Tensor& f) const override;
  Tensor hessian_root(const Tensor& f) const override;
  Tensor sampled_scores(const Tensor& f, int64_t draws, const Stream& stream,
                        int64_t first) const override;
  double baseline(const Tensor& y, int64_t outputs) const override;
  Tensor predict(const Tensor& f) const override { return f.sigmoid(); }
  std::string_view name() const override { return "bernoulli"; }
  void check_labels(const Tensor& y, int64_t outputs) const override;
};

/// "classification", "regression" or "bernoulli".
std::unique_ptr<Likelihood> make_likelihood(std::string_view name, double noise = 1.0);

}  // namespace evariste
