#include "laplace/statistics.h"

#include <algorithm>

#include "laplace/cuda/bind.h"
#include "laplace/gram.h"
#include "laplace/register_tiles.h"

namespace evariste {
namespace {

constexpr int64_t kTileEntries = 1 << 23;  // per-sample gradients held at once: 32 MB of float32

struct Positions {
  Tensor phi;  // [Q, n, T, J]
  Tensor g;    // [Q, R, n, T, O]
  int64_t groups, folds, samples, positions, inputs, outputs;
};

Positions positions_of(const Block& block, const Tensor& phi, const Tensor& g) {
  Positions p;
  p.folds = g.size(0), p.samples = g.size(1);
  const auto flat = block.to_positions(g.flatten(0, 1));  // [Q, R n, T, O]
  p.groups = flat.size(0), p.positions = flat.size(2), p.outputs = flat.size(3);
  p.g = flat.reshape({p.groups, p.folds, p.samples, p.positions, p.outputs});
  p.phi = phi;
  p.inputs = p.phi.size(3);
  if (block.is_constant() && p.positions > 1) {  // phi = 1 everywhere: sum the positions once
    p.g = p.g.sum(3, true);
    p.positions = 1;
  }
  return p;
}

/// Cotangents as coordinates in the basis [Q, O, k_B].
void rotate(Positions& p, const Tensor& basis_b) {
  if (basis_b.defined()) p.g = times_each(p.g, basis_b);
  p.outputs = p.g.size(4);
}

/// Per-sample gradients of samples [begin, begin + count): [Q, R, count, O, J].
Tensor tile_gradients(const Positions& p, int64_t begin, int64_t count) {
  const auto g = p.g.narrow(2, begin, count);                   // [Q, R, c, T, O]
  const auto phi = p.phi.narrow(1, begin, count).unsqueeze(1);  // [Q, 1, c, T, J]
  if (p.positions == 1) return g.transpose(3, 4) * phi;
  return g.transpose(3, 4).matmul(phi);
}

template <class Visit>
void for_each_tile(const Positions& p, const Visit& visit) {
  const auto entries = p.groups * p.folds * p.outputs * p.inputs;
  const auto count =
      std::clamp<int64_t>(kTileEntries / std::max<int64_t>(entries, 1), 1, p.samples);
  for (int64_t begin = 0; begin < p.samples; begin += count)
    visit(begin, std::min(count, p.samples - begin));
}

}  // namespace

Tensor times_each(const Tensor& x, const Tensor& matrices) {
  if (x.size(-2) > 1 && !x.is_contiguous()) {
    auto shape = matrices.sizes().vec();
    shape.insert(shape.begin() + 1, static_cast<size_t>(x.dim() - 3), 1);
    return x.matmul(matrices.reshape(shape));
  }
  auto shape = x.sizes().vec();
  shape.back() = matrices.size(2);
  return x.flatten(1, -2).bmm(matrices).view(shape);
}

int64_t cached_entries(const Tensor& like) {
  return like.device().is_cpu() ? int64_t{1} << 18 : kTileEntries;
}

Tensor as_gathered(const Block& block, const Tensor& matrix) {
  auto order = block.gathered_order();
  if (!order.defined()) return matrix;
  order = order.to(matrix.device());  // cotangents may be kept on the CPU
  return matrix.index_select(1, order).index_select(2, order);
}

Tensor kept_positions(const Block& block, const Tensor& g) {
  const auto s = block.phase_stride;
  const auto positions = block.to_positions(g.flatten(0, 1));  // [Q, R n, u H W, O]: u maps
  const auto r = g.size(0), n = g.size(1), h = g.size(-2), w = g.size(-1);
  const auto uses = positions.size(2) / (h * w);
  const auto size = positions.abs().amax({0, 3}).view({r, n * uses, h / s, s, w / s, s});
  const auto phase = size.amax({0, 2, 4}).view({-1, s * s}).argmax(1);  // i s + j
  const auto kept = torch::arange(h * w, phase.options())
                        .view({h / s, s, w / s, s})
                        .permute({1, 3, 0, 2})
                        .reshape({s * s, -1})
                        .index_select(0, phase);
  const auto first = h * w * torch::arange(uses, phase.options()).unsqueeze(1);
  return (kept.view({n, uses, -1}) + first).flatten(1);
}

Tensor at_positions(const Tensor& from, const Tensor& index) {
  return from.gather(2, index.view({1, index.size(0), index.size(1), 1})
                            .expand({from.size(0), -1, -1, from.size(3)}));
}

Tensor input_factor(const Block& block, const Tensor& x, Sharing sharing) {
  if (sharing == Sharing::kExpand) return block.input_gram(x);
  const auto mean = block.phi(x).mean(2);  // [Q, n, J]
  return gram(mean);
}

Tensor output_factor(const Block& block, const Tensor& g, Sharing sharing) {
  const auto positions = block.to_positions(g.flatten(0, 1));  // [Q, R n, T, O]
  // A bias has phi = 1 at each of T positions: T sum phi phi^T / T leaves the plain sum.
  const auto t = block.is_constant() ? 1.0 : static_cast<double>(positions.size(2));
  if (sharing == Sharing::kReduce) {
    const auto sums = positions.sum(2);
    return gram(sums);
  }
  const bool are_rows = positions.stride(3) == 1;
  if (!are_rows && positions.size(2) >= positions.size(3)) {
    // A product per sample, of the cotangents as they lie: to have the positions of all samples in
    // rows would copy them.
    const auto each = positions.flatten(0, 1);  // [Q R n, T, O]
    return each.transpose(1, 2)
               .bmm(each)
               .view({positions.size(0), positions.size(1), positions.size(3), positions.size(3)})
               .sum(1)
               .to(torch::kFloat64) /
           t;
  }
  const auto rows = positions.flatten(1, 2);
  return gram(rows) / t;
}

Tensor sample_gradients(const Block& block, const Tensor& x, const Tensor& g) {
  const auto p = positions_of(block, block.phi(x), g);
  return tile_gradients(p, 0, p.samples);
}

Features::Features(const Block& block, const Tensor& x, const Tensor& basis_a)
    : block_(&block), x_(x), basis_(basis_a) {
  if (basis_.defined()) return;
  order_ = block.gathered_order();
  squares_ = block.squared_gradients_of(x);
}

const Tensor& Features::values() const {
  if (values_.defined()) return values_;
  values_ = block_->gathered(x_);
  if (!basis_.defined()) return values_;
  const auto order = block_->gathered_order();
  values_ = times_each(values_, order.defined() ? basis_.index_select(1, order) : basis_);
  return values_;
}

Tensor squared_gradients(const Block& block, const Features& features, const Tensor& g,
                         const Tensor& basis_b) {
  if (features.squares() && !basis_b.defined()) return features.squares()(g);
  auto p = positions_of(block, features.values(), g);
  rotate(p, basis_b);
  Tensor sum;
  if (p.positions == 1) {
    const auto squares = p.g.squeeze(3).square().sum(1);  // [Q, n, O]
    sum = squares.transpose(1, 2).matmul(p.phi.squeeze(2).square()).to(torch::kFloat64);
  } else if (cuda::takes(p.g)) {
    sum = cuda::squared_gradients(p.g, p.phi);
  } else if (has_register_tiles(p.g)) {
    std::vector<Tensor> groups;
    for (int64_t q = 0; q < p.groups; ++q) groups.push_back(squared_products(p.g[q], p.phi[q]));
    sum = torch::stack(groups);
  } else {
    sum = torch::zeros({p.groups, p.outputs, p.inputs}, p.g.options().dtype(torch::kFloat64));
    for_each_tile(p, [&](int64_t begin, int64_t count) {
      sum += tile_gradients(p, begin, count).square_().sum({1, 2}).to(torch::kFloat64);
    });
  }
  const auto& order = features.order();
  return order.defined() ? torch::empty_like(sum).index_copy_(2, order, sum) : sum;
}

namespace {

/// Whether sum_{t,t'} (phi_t . phi_t')(g_t . g_t') costs less than the gradients themselves.
bool gram_form_is_cheaper(int64_t positions, int64_t folds, int64_t outputs, int64_t inputs) {
  return positions * (inputs + folds * outputs) < folds * inputs * outputs;
}

}  // namespace

Tensor gradient_trace(const Block& block, const Features& features, const Tensor& g) {
  if (features.squares()) {
    const auto shape = block.value().sizes().vec();
    const auto t = g[0][0].numel() / (shape[0] * shape[1]);
    if (!gram_form_is_cheaper(t, g.size(0), shape[1], shape[2]))
      return features.squares()(g).sum(torch::kFloat64);
  }
  const auto p = positions_of(block, features.values(), g);
  if (p.positions == 1) {
    const auto squares = p.g.squeeze(3).square().sum({1, 3});  // [Q, n]
    return (squares * p.phi.squeeze(2).square().sum(2)).sum(torch::kFloat64);
  }
  const auto t = p.positions;
  const bool has_few = gram_form_is_cheaper(t, p.folds, p.outputs, p.inputs);
  auto trace = torch::zeros({}, p.g.options().dtype(torch::kFloat64));
  if (!has_few && has_register_tiles(p.g)) {
    for (int64_t q = 0; q < p.groups; ++q) trace += squared_products(p.g[q], p.phi[q]).sum();
    return trace;
  }
  // Few samples at a time, so that their features stay in the cache for all columns.
  const auto entries = p.groups * (has_few ? t * t : t * p.inputs);
  const auto tile = std::clamp<int64_t>(cached_entries(p.g) / entries, 1, p.samples);
  for (int64_t begin = 0; begin < p.samples; begin += tile) {
    const auto count = std::min(tile, p.samples - begin);
    const auto phi = p.phi.narrow(1, begin, count);  // [Q, c, T, J]
    Tensor grams;
    for (int64_t r = 0; r < p.folds; ++r) {
      const auto one = p.g.select(1, r).narrow(1, begin, count);  // [Q, c, T, O]
      if (has_few) {
        const auto product = one.matmul(one.transpose(2, 3));
        grams = grams.defined() ? grams.add_(product) : product;
      } else {
        const auto gradients = one.transpose(2, 3).matmul(phi).flatten();
        trace += gradients.dot(gradients);
      }
    }
    if (has_few) trace += grams.flatten().dot(phi.matmul(phi.transpose(2, 3)).flatten());
  }
  return trace;
}

void add_output_covariance(const Block& block, const Tensor& x, const Tensor& g, const Tensor& s,
                           const Tensor& basis_b, const Tensor& basis_a, Tensor& out) {
  const Features features(block, x, basis_a);
  auto p = positions_of(block, features.values(), g);
  const auto weights = features.order().defined() ? s.index_select(2, features.order()) : s;
  if (p.positions == 1) {
    rotate(p, basis_b);
    // w_i = sum_j s_ij phi_j^2, then g_c diag(w) g_d: no per-sample gradient is formed.
    const auto w = p.phi.squeeze(2).square().matmul(weights.transpose(1, 2));  // [Q, n, O]
    if (cuda::takes(w)) return cuda::output_covariance(p.g.squeeze(3), w, out);
    const auto columns = p.g.squeeze(3).transpose(1, 2);  // [Q, n, C, O]
    out += (columns * w.unsqueeze(2)).matmul(columns.transpose(2, 3)).sum(0);
    return;
  }
  // A sample's gradients of all columns are one product. Few samples at a time: what is made of
  // them is looked at again while it lies in the cache.
  const auto columns = p.groups * p.folds * s.size(1);
  const auto tile = std::clamp<int64_t>(
      cached_entries(p.g) / (columns * std::max(p.positions, p.inputs)), 1, p.samples);
  const auto turn =
      basis_b.defined() ? basis_b.transpose(1, 2).unsqueeze(1).unsqueeze(1) : Tensor();
  const auto flat_weights = weights.reshape({p.groups, 1, 1, -1});
  for (int64_t begin = 0; begin < p.samples; begin += tile) {
    const auto count = std::min(tile, p.samples - begin);
    auto rows = p.g.narrow(2, begin, count).permute({0, 2, 1, 4, 3});  // [Q, c, C, O, T]
    if (turn.defined()) rows = turn.matmul(rows);
    const auto gradients = rows.reshape({p.groups * count, -1, p.positions})
                               .bmm(p.phi.narrow(1, begin, count).flatten(0, 1))
                               .view({p.groups, count, p.folds, -1});  // [Q, c, C, O J]
    const auto pairs = inner_products((gradients * flat_weights).flatten(0, 1),
                                      gradients.flatten(0, 1));  // [Q c, C, C]
    out.narrow(0, begin, count) += pairs.view({p.groups, count, p.folds, p.folds}).sum(0);
  }
}

}  // namespace evariste
