#include "laplace/low_rank.h"

#include <chrono>

#include "core/error.h"
#include "laplace/block_index.h"
#include "laplace/flat.h"
#include "laplace/statistics.h"

namespace evariste {
namespace {

using Clock = std::chrono::steady_clock;

Tensor gram_of_columns(const Tensor& w) {  // I + W^T W
  return w.t().mm(w) + torch::eye(w.size(1), w.options());
}

/// H V for V [P, k]; also sums the likelihood.
class Products {
 public:
  Products(Layer& network, const Likelihood& likelihood, const Samples& data,
           const std::vector<const Block*>& blocks, int64_t batch)
      : network_(network),
        likelihood_(likelihood),
        data_(data),
        blocks_(blocks),
        batch_(batch),
        index_(blocks) {
    int64_t begin = 0;
    for (const auto* block : blocks_) {
      begins_.push_back(begin);
      begin += block->parameters();
    }
    parameters_ = begin;
  }
  int64_t parameters() const { return parameters_; }

  Tensor operator()(const Tensor& v, Fit* fit = nullptr) const {
    torch::NoGradGuard no_grad;
    const auto k = v.size(1);
    auto out = torch::zeros({k, parameters_}, v.options());
    const auto directions = v.t().contiguous();  // [k, P]
    for (int64_t begin = 0; begin < data_.count(); begin += batch_) {
      const auto count = std::min(batch_, data_.count() - begin);
      Tape tape;
      const auto f = network_.forward(data_.inputs(begin, count), &tape);
      expect_finite(f, "network outputs");
      if (fit) {
        const auto y = data_.y.narrow(0, begin, count);
        fit->log_likelihood +=
            likelihood_.log_density(f, y).sum(torch::kFloat64).item<double>() * data_.weight();
        fit->normaliser +=
            likelihood_.normaliser(f).sum(torch::kFloat64).item<double>() * data_.weight();
      }
      // Lambda in the units of the root: the noise of a Gaussian is kept apart.
      const auto root = likelihood_.hessian_root(f);  // [R, n, C]
      std::vector<Tensor> columns;
      for (int64_t c = 0; c < k; ++c) {
        const auto df = network_.jvp(Tensor(), tape, along([&](const Block& block) {
                                       const auto m = index_(block);
                                       if (m < 0) return Tensor();
                                       const auto value = blocks_[m]->value();
                                       return directions[c]
                                           .narrow(0, begins_[m], value.numel())
                                           .view(value.sizes())
                                           .to(value.scalar_type())
                                           .unsqueeze(0);
                                     }));
        const auto inner = (root * df).sum(2, true);  // S^T df, [R, n, 1]
        columns.push_back((root * inner).sum(0));     // S S^T df, [n, C]
      }
      const auto add = [&](size_t m, const Tensor& x, const Tensor& g) {
        for (int64_t c = 0; c < k; ++c)
          out[c].narrow(0, begins_[m], blocks_[m]->parameters()) +=
              blocks_[m]->gradient(x, g[c]).flatten().to(torch::kFloat64);
      };
      network_.backward(torch::stack(columns), tape, sink_of(index_, add), false);
    }
    data_.sum({out});
    if (fit) {
      fit->log_likelihood = data_.sum(fit->log_likelihood);
      fit->normaliser = data_.sum(fit->normaliser);
    }
    return (out * data_.weight()).t().contiguous();
  }

 private:
  Layer& network_;
  const Likelihood& likelihood_;
  const Samples& data_;
  const std::vector<const Block*>& blocks_;
  int64_t batch_, parameters_ = 0;
  std::vector<int64_t> begins_;
  BlockIndex index_;
};

}  // namespace

LowRankCurvature::LowRankCurvature(std::vector<const Block*> blocks, Tensor basis, Tensor values,
                                   int64_t samples)
    : Curvature(std::move(blocks), samples), basis_(std::move(basis)), values_(std::move(values)) {}

Tensor LowRankCurvature::whitened(const Tensor& prior) const {
  return basis_ * prior.rsqrt().unsqueeze(1) * (scale_ * values_).sqrt();
}

double LowRankCurvature::log_det_ratio(const Precisions& precisions) const {
  const auto m = gram_of_columns(whitened(flat_precisions(precisions, blocks_)));
  return 2 * at::linalg_cholesky(m).diagonal().log().sum().item<double>();
}

std::vector<LogDet> LowRankCurvature::log_det(const Precisions& precisions) const {
  const auto w = whitened(flat_precisions(precisions, blocks_));
  const auto inverse = at::cholesky_inverse(at::linalg_cholesky(gram_of_columns(w)));
  const auto half = w.mm(inverse);
  const auto gamma = (half * w).sum(1);  // of each entry: the diagonal of W M^-1 W^T
  const auto entries = split_by_block(gamma, blocks_),
             slopes = split_by_block(gamma * (1 - gamma), blocks_);
  std::vector<LogDet> out(blocks_.size());
  int64_t begin = 0;
  for (size_t m = 0; m < blocks_.size(); ++m) {
    const auto count = entries[m].numel();
    const auto part = w.narrow(0, begin, count);
    const auto inner = part.t().mm(half.narrow(0, begin, count));  // W_m^T W_m M^-1
    out[m].ratio = std::numeric_limits<double>::quiet_NaN();
    out[m].effective = entries[m].sum().item<double>();
    // -d gamma_m / d rho_m = gamma_m - |W_m M^-1 W_m^T|^2
    out[m].slope = out[m].effective - (inner * inner.t()).sum().item<double>();
    out[m].entries = entries[m];
    out[m].entry_slopes = slopes[m];
    begin += count;
  }
  return out;
}

std::vector<Tensor> LowRankCurvature::solve(const std::vector<Tensor>& g,
                                            const Precisions& precisions, double damping) const {
  std::vector<Tensor> parts;
  for (const auto& part : g) parts.push_back(part.to(torch::kFloat64).flatten());
  const auto prior = flat_precisions(precisions, blocks_) + damping;
  const auto w = whitened(prior);
  const auto scaled = torch::cat(parts) * prior.rsqrt();
  const auto inner =
      at::cholesky_solve(w.t().mv(scaled).unsqueeze(1), at::linalg_cholesky(gram_of_columns(w)));
  auto out = split_by_block((scaled - w.mm(inner).squeeze(1)) * prior.rsqrt(), blocks_);
  for (size_t m = 0; m < out.size(); ++m) out[m] = out[m].to(g[m].scalar_type());
  return out;
}

std::vector<Tensor> LowRankCurvature::sample(const Precisions& precisions,
                                             const Stream& stream) const {
  const auto prior = flat_precisions(precisions, blocks_);
  const auto w = whitened(prior);
  const auto z = normal_draws(prior, stream);
  // (I + W W^T)^-1/2 z: along the eigenvectors W q / sqrt(s) of W W^T the factor is (1 + s)^-1/2.
  const auto [s, q] = at::linalg_eigh(w.t().mm(w), "L");
  const auto safe = s.clamp_min(1e-300);
  const auto factor = torch::where(s > 0, ((1 + s).rsqrt() - 1) / safe, torch::zeros_like(s));
  const auto along = q.t().mv(w.t().mv(z));
  auto out = split_by_block((z + w.mv(q.mv(factor * along))) * prior.rsqrt(), blocks_);
  for (size_t m = 0; m < out.size(); ++m) out[m] = out[m].to(blocks_[m]->weight().scalar_type());
  return out;
}

// J_m B_m [n, C, k] of each block, B = P0^-1/2 W [P, k], and J P0^-1 J^T by block [n, C, C].
struct LowRankCurvature::Outputs {
  Tensor w, b;
  std::vector<Tensor> inner, prior;
};

LowRankCurvature::Outputs LowRankCurvature::outputs_of(const std::vector<Visit>& visits,
                                                       const Tensor& prior) const {
  Outputs out;
  out.w = whitened(prior);
  out.b = out.w * prior.rsqrt().unsqueeze(1);
  const auto variances = split_by_block(prior.reciprocal(), blocks_);
  int64_t begin = 0;
  for (size_t m = 0; m < visits.size(); ++m) {
    const auto& [block, x, g] = visits[m];
    const auto type = g.scalar_type();
    auto diagonal = torch::zeros({g.size(1), g.size(0), g.size(0)}, g.options());
    add_output_covariance(*block, x, g, variances[m].to(type), Tensor(), Tensor(), diagonal);
    out.prior.push_back(diagonal);
    auto inner = torch::zeros({out.w.size(1), g.size(0), g.size(1)}, g.options());  // [k, C, n]
    const auto columns = out.b.narrow(0, begin, variances[m].numel()).t();
    for (int64_t k = 0; k < columns.size(0); ++k) {
      const auto y = block->apply(columns[k].reshape(block->value().sizes().vec()).to(type), x);
      inner[k] += (g * y.unsqueeze(0)).flatten(2).sum(2);
    }
    out.inner.push_back(inner.permute({2, 1, 0}).to(torch::kFloat64));
    begin += variances[m].numel();
  }
  return out;
}

Tensor LowRankCurvature::output_covariance(const std::vector<Visit>& visits,
                                           const Precisions& precisions) const {
  const auto parts = outputs_of(visits, flat_precisions(precisions, blocks_));
  auto out = parts.prior[0], j = parts.inner[0];
  for (size_t m = 1; m < visits.size(); ++m) out = out + parts.prior[m], j = j + parts.inner[m];
  const auto m = at::linalg_cholesky(gram_of_columns(parts.w));
  const auto half = at::linalg_solve_triangular(m, j.flatten(0, 1).t(), false).t().view(j.sizes());
  return out - half.matmul(half.transpose(1, 2)).to(out.scalar_type());
}

// J P^-1 = J P0^-1 - K B^T with K = J B M^-1, so that block m of J P^-1 P0 P^-1 J^T is
//   J_m P0_m^-1 J_m^T - J_m B_m K^T - K (J_m B_m)^T + K (B_m^T P0_m B_m) K^T.
std::vector<double> LowRankCurvature::covariance_slopes(const std::vector<Visit>& visits,
                                                        const Precisions& precisions,
                                                        const Tensor& loss) const {
  const auto parts = outputs_of(visits, flat_precisions(precisions, blocks_));
  auto j = parts.inner[0];
  for (size_t m = 1; m < visits.size(); ++m) j = j + parts.inner[m];
  const auto inverse = at::cholesky_inverse(at::linalg_cholesky(gram_of_columns(parts.w)));
  const auto k = j.matmul(inverse);
  std::vector<double> out;
  int64_t begin = 0;
  for (size_t m = 0; m < visits.size(); ++m) {
    const auto rows = parts.w.narrow(0, begin, blocks_[m]->parameters());  // P0^1/2 B
    const auto cross = parts.inner[m].matmul(k.transpose(1, 2));
    const auto part = parts.prior[m].to(torch::kFloat64) - cross - cross.transpose(1, 2) +
                      k.matmul(rows.t().mm(rows)).matmul(k.transpose(1, 2));
    out.push_back(-(loss * part).sum().item<double>());
    begin += blocks_[m]->parameters();
  }
  return out;
}

Fit fit_low_rank(Layer& network, const Likelihood& likelihood, const Samples& data,
                 const LowRankOptions& options) {
  expect_evaluation_mode(network);
  CurvatureOptions chosen;
  chosen.only = options.only;
  std::vector<std::shared_ptr<Block>> none;
  const auto blocks = curvature_blocks(network, chosen, none);
  const Products products(network, likelihood, data, blocks, options.batch);
  const auto parameters = products.parameters();
  const auto columns = std::min(parameters, options.rank + options.oversampling);
  Fit fit;
  fit.count = data.everywhere();
  const auto start = Clock::now();
  auto basis = torch::empty({parameters, columns}, data.x.options().dtype(torch::kFloat64));
  basis = std::get<0>(at::linalg_qr(normal_draws(basis, options.stream)));
  for (int64_t i = 0; i <= options.iterations; ++i)
    basis = std::get<0>(at::linalg_qr(products(basis)));
  const auto image = products(basis, &fit);
  fit.seconds_pass = std::chrono::duration<double>(Clock::now() - start).count();
  const auto small = basis.t().mm(image);
  const auto [values, vectors] = at::linalg_eigh(0.5 * (small + small.t()), "L");
  const auto kept =
      std::min<int64_t>(options.rank, (values > 1e-12 * values.abs().max()).sum().item<int64_t>());
  if (kept == 0) throw NumericalError("low-rank curvature: the curvature of the network is zero");
  fit.curvature =
      std::make_shared<LowRankCurvature>(blocks, basis.mm(vectors.narrow(1, columns - kept, kept)),
                                         values.narrow(0, columns - kept, kept).clone(),
                                         data.total > 0 ? data.total : data.everywhere());
  fit.columns = static_cast<double>(columns * (options.iterations + 2));
  return fit;
}

}  // namespace evariste
