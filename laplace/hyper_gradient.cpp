#include "laplace/hyper_gradient.h"

#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <unordered_map>

#include "core/error.h"
#include "laplace/block_index.h"
#include "laplace/gram.h"

namespace evariste {
namespace {

const KronCurvature& kron_of(const Fit& fit) {
  const auto* kron = dynamic_cast<const KronCurvature*>(fit.curvature.get());
  if (!kron || kron->structure() != "kron")
    throw UsageError(fmt::format(
        "the gradient of the evidence in hyper-parameters of the features needs structure kron, "
        "got {}",
        fit.curvature->structure()));
  return *kron;
}

/// U diag(c) U^T + outside (I - U U^T), [Q, D, D]; c [Q, k].
Tensor in_basis(const SymmetricFactor& factor, const Tensor& c, const Tensor& outside) {
  const auto basis = factor.basis.to(torch::kFloat64);
  auto out = (basis * (c - outside.unsqueeze(1)).unsqueeze(1)).matmul(basis.transpose(1, 2));
  out.diagonal(0, 1, 2).add_(outside.unsqueeze(1));
  return out;
}

bool is_in(const std::vector<Tensor>& list, const Tensor& tensor) {
  return std::any_of(list.begin(), list.end(),
                     [&](const Tensor& one) { return one.is_same(tensor); });
}

/// The leaves that features or layers depend on and that want a gradient, each once.
std::vector<Tensor> leaves_of(Layer& network) {
  std::vector<Tensor> leaves;
  const auto add = [&](const std::vector<Tensor>& some) {
    for (const auto& leaf : some)
      if (leaf.requires_grad() && !is_in(leaves, leaf)) leaves.push_back(leaf);
  };
  network.visit_blocks([&](Block& block) { add(block.hyperparameters()); });
  for (const auto& module : network.modules())
    if (const auto* layer = dynamic_cast<const Layer*>(module.get())) add(layer->hyperparameters());
  return leaves;
}

/// Positions lie innermost, as in convolutions.
bool is_transposed(const Tensor& g) { return g.stride(3) == 1 && g.stride(4) != 1; }

/// g S for g [Q, R, n, T, O] and symmetric S [Q, O, O], in g's layout: as S g^T where the positions
/// lie innermost, so that g is not copied.
Tensor times(const Tensor& g, const Tensor& s) {
  if (!is_transposed(g)) return g.flatten(1, 3).matmul(s).view(g.sizes());
  const auto each = g.transpose(3, 4).flatten(0, 2);
  const auto wide = s.unsqueeze(1).expand({-1, each.size(0) / s.size(0), -1, -1}).flatten(0, 1);
  return wide.bmm(each)
      .view({g.size(0), g.size(1), g.size(2), g.size(4), g.size(3)})
      .transpose(3, 4);
}

/// sum over groups, positions and outputs of a[c] b[d] for each sample, [n, R, R]; a and b [Q, R,
/// n, T, O] of one layout.
Tensor pairs_of(const Tensor& a, const Tensor& b) {
  const auto flat = [&](const Tensor& t) {
    return (is_transposed(b) ? t.transpose(3, 4) : t).flatten(3).permute({0, 2, 1, 3});
  };
  return inner_products(flat(a).flatten(0, 1), flat(b).flatten(0, 1))
      .view({a.size(0), a.size(2), a.size(1), -1})
      .sum(0);
}

/// Sums [Q, .., u T', D] over u positions T' apart -> [Q, .., T', D]; and what was one of them
/// spread over all again. Nothing is copied where u = 1.
Tensor reduced(const Tensor& all, int64_t u) {
  return u == 1 ? all : all.unflatten(-2, {u, -1}).sum(-3);
}
Tensor spread(const Tensor& one, int64_t u) {
  if (u == 1 || one.size(-2) == 1) return one;  // broadcasts
  auto shape = one.sizes().vec();
  shape.insert(shape.end() - 2, u);
  return one.unsqueeze(-3).expand(shape).flatten(-3, -2);
}

/// sum_d Lambda[n, c, d] t[d, n, ...]; t may have several copies of each sample, [R, n K, ...].
Tensor mix(const Tensor& lambda, const Tensor& t) {
  const auto n = lambda.size(0), outputs = lambda.size(1);
  const auto flat = t.transpose(0, 1).reshape({n, t.size(1) / n, outputs, -1});
  auto shape = t.sizes().vec();
  std::swap(shape[0], shape[1]);
  return lambda.unsqueeze(1).matmul(flat).view(shape).transpose(0, 1);
}

/// One batch: what its columns say about the sums, as cotangents on outputs and features.
class Pass {
 public:
  Pass(Layer& network, const Likelihood& likelihood, const Fit& fit,
       const std::vector<LogDetCotangent>& cotangents, const CurvatureOptions& options)
      : network_(network),
        likelihood_(likelihood),
        blocks_(fit.curvature->blocks()),
        index_(blocks_),
        cotangents_(cotangents),
        options_(options),
        count_(fit.count),
        weight_(static_cast<double>(fit.curvature->samples()) / static_cast<double>(fit.count)),
        ready_(blocks_.size()) {
    network.visit_blocks(
        [&](Block& block) { bends_ = bends_ || !block.hyperparameters().empty(); });
    for (const auto& module : network.modules()) {
      const auto* layer = dynamic_cast<const Layer*>(module.get());
      bends_ = bends_ || (layer && layer->bends());
    }
  }

  /// A scalar with the gradient of 1/2 log|P|, but for what goes through `inputs()`.
  Tensor operator()(const Tensor& f, const Tape& tape) {
    terms_ = torch::zeros({}, f.options());
    inputs_.clear();
    on_inputs_.clear();
    const auto span = likelihood_.hessian_span(f.size(1), f.options());  // [R, C]
    const auto hessian_of = [&](const Tensor& outputs) {
      return span.matmul(likelihood_.hessian(outputs)).matmul(span.t()) /
             likelihood_.curvature_scale();
    };
    {
      torch::NoGradGuard no_grad;
      lambda_ = hessian_of(f.detach());
      pair_ = torch::zeros_like(lambda_);
      const auto basis = span.unsqueeze(1).expand({-1, f.size(0), -1});
      Sink sink = [&](const Block& block, const Tensor& x, const Tensor& g) { at(block, x, g); };
      sink.wants = [&](const Block& block) { return index_(block) >= 0; };
      if (bends_)
        sink.bend = [&](const Layer&, const Tape& of, const Tensor& g) {
          output_cotangents_[&of] = g;
        };
      network_.backward(basis, tape, sink, false);
      if (bends_) pair_ = 0.5 * push(tape).matmul(span.t()).transpose(0, 1);
    }
    return terms_ + (pair_ * hessian_of(f)).sum();
  }

  /// Inputs of blocks, and their cotangents of 1/2 log|P| through the block's features.
  const std::vector<Tensor>& inputs() const { return inputs_; }
  const std::vector<Tensor>& on_inputs() const { return on_inputs_; }

 private:
  /// Forward derivative of Gamma g; [R, n, C].
  Tensor push(const Tape& tape) {
    Tangents tangents;
    tangents.outputs = [&](const Block& block) {
      const auto found = tangents_.find(&block);
      return found == tangents_.end() ? Tensor() : found->second;
    };
    tangents.bend = [&](const Layer& layer, const Tape& of, const Tensor& dx) {
      const auto mixed = mix(lambda_, dx);
      torch::AutoGradMode enabled(true);
      const auto dy = layer.jvp(mixed, of, Tangents());
      const auto found = output_cotangents_.find(&of);
      if (found == output_cotangents_.end())
        throw Error(1, fmt::format("layer {} reported to jvp that it bends, but not to backward",
                                   layer.name()));
      if (dy.requires_grad()) terms_ = terms_ + (found->second * dy).sum();
    };
    const auto out = network_.jvp(Tensor(), tape, tangents);
    tangents_.clear();
    output_cotangents_.clear();
    return out;
  }

  void at(const Block& reported, const Tensor& x, const Tensor& g) {
    const auto m = index_(reported);
    if (m < 0) return;
    const auto& block = *blocks_[static_cast<size_t>(m)];
    const auto& gamma = cotangents_[static_cast<size_t>(m)];
    const bool is_done = with_weight_ == &reported;
    if (is_done && !gamma.trace.defined()) return;
    const auto type = g.scalar_type();
    const auto folds = g.size(0), n = g.size(1);
    const bool has_leaves = !block.hyperparameters().empty();
    const bool wants_phi = !block.is_constant() && (has_leaves || x.requires_grad());
    auto positions = block.to_positions(g.flatten(0, 1));  // [Q, R n, T, O]
    const auto all = positions.size(2);
    Tensor kept;
    const auto copies = reduced_copies(block, x, options_);
    if (copies == 1 && selects_positions(block, options_)) {
      kept = kept_positions(block, g);
      positions = at_positions(positions, kept.repeat({folds, 1}));
    }
    const auto t = positions.size(2), groups = positions.size(0), outputs = positions.size(3);
    const auto columns = positions.reshape({groups, folds, n, t, outputs});
    // Positions that are summed before the factors see them: all, or the copies of each.
    const auto u = sharing_of(block, options_) == Sharing::kReduce ? t : copies;
    const bool has_trace = gamma.exact.defined() || gamma.trace.defined();
    const bool has_factors = gamma.output.defined() && !is_done;
    // Through the input's Gram matrix alone, where its features are not asked for themselves.
    const bool by_gram = has_factors && wants_phi && !has_leaves && u == 1 && !kept.defined();
    Tensor phi;  // [Q, n, T, J]
    if (has_trace || (has_factors && wants_phi && !by_gram)) {
      phi = block.gathered(x.detach());
      if (kept.defined()) phi = at_positions(phi, kept);
    }
    Tensor tangent;  // on the cotangents, [Q, R, n, T or 1, O]
    Tensor on_phi;   // on the features
    const auto add = [](Tensor& sum, const Tensor& term) {
      sum = sum.defined() ? sum + term : term;
    };
    if (has_factors) {
      auto& ready = ready_[static_cast<size_t>(m)];
      if (!ready.output.defined()) {
        const auto share = block.is_constant() ? 1.0 : static_cast<double>(t / u);
        ready.output = gamma.output / share;
        // A bias has the cotangents of its weight: where both are seen alike one product serves
        // both.
        const auto of_bias = reported.bias && !kept.defined() ? index_(*reported.bias) : -1;
        if (of_bias >= 0 && of_bias != m) {
          const auto& bias = *blocks_[static_cast<size_t>(of_bias)];
          const auto& other = cotangents_[static_cast<size_t>(of_bias)].output;
          const auto u_bias = sharing_of(bias, options_) == Sharing::kReduce
                                  ? all
                                  : reduced_copies(bias, x, options_);
          if (other.defined() && other.sizes() == gamma.output.sizes() && groups == 1 &&
              u_bias == u) {
            ready.output = ready.output + other;
            ready.has_bias = true;
          }
        }
        ready.output = (2 * weight_ * ready.output).to(type);
        if (wants_phi) {
          const auto input = gamma.input / static_cast<double>(count_);
          if (by_gram)
            ready.on_input = block.input_gram_backward(input.to(type), x.detach());
          else
            ready.input = (as_gathered(block, 2 * input) / static_cast<double>(u * u)).to(type);
        }
      }
      with_weight_ = ready.has_bias ? reported.bias : nullptr;
      if (bends_)
        add(tangent, spread(times(reduced(columns, u), ready.output), u));
      else
        add_pairs(columns, ready.output, u);
      if (by_gram) {
        inputs_.push_back(x);
        on_inputs_.push_back(ready.on_input(x.detach()));
      } else if (wants_phi) {
        add(on_phi, spread(times_each(reduced(phi, u), ready.input), u).expand_as(phi));
      }
    }
    if (has_trace) {
      const auto sums = block.is_constant() ? columns.sum(3, true) : columns;  // phi has T = 1
      Tensor kappa;
      if (gamma.exact.defined())
        kappa = (2 * weight_ * gamma.exact.to(type)).unsqueeze(1).unsqueeze(1);
      else
        kappa = (2 * weight_ * gamma.trace.to(type)).view({-1, 1, 1, 1, 1});
      const auto weighted_gradients = [&](const Tensor& gradients) {  // [Q, R, c, O, J]
        return gamma.exact.defined() ? gradients.matmul(kappa) : kappa * gradients;
      };
      if (sums.size(3) == 1 && gamma.trace.defined()) {  // |G|^2 = |g|^2 |phi|^2
        add(tangent, kappa * phi.square().sum(3, true).unsqueeze(1) * sums);
        const auto weighted =
            (sums * mixed_columns(sums)).sum({1, 4}).unsqueeze(3);  // [Q, n, 1, 1]
        add(on_phi, kappa.squeeze(1) * weighted * phi);
      } else {
        const auto mixed = mixed_columns(sums);
        auto pushed = torch::empty_like(sums);
        on_phi = on_phi.defined() ? on_phi.contiguous() : torch::zeros_like(phi);
        const auto tile = std::clamp<int64_t>(
            (int64_t{1} << 22) / (groups * folds * outputs * phi.size(3)), 1, n);
        for (int64_t begin = 0; begin < n; begin += tile) {
          const auto count = std::min(tile, n - begin);
          const auto cut = [&](const Tensor& all_samples) {
            return all_samples.narrow(2, begin, count);
          };
          const auto features = cut(phi.unsqueeze(1));  // [Q, 1, c, T, J]
          const auto gradients =
              weighted_gradients(cut(sums).transpose(3, 4).matmul(features));  // [Q, R, c, O, J]
          cut(pushed).copy_(features.matmul(gradients.transpose(3, 4)));       // [Q, R, c, T, O]
          on_phi.narrow(1, begin, count) += cut(mixed).matmul(gradients).sum(1);
        }
        add(tangent, pushed);
      }
    }
    if (tangent.defined()) tangent = tangent.expand_as(columns);
    if (bends_) {
      auto back = tangent.flatten(1, 2);
      if (kept.defined()) {
        auto shape = back.sizes().vec();
        shape[2] = all;
        const auto index = kept.repeat({folds, 1}).unsqueeze(0).unsqueeze(3).expand_as(back);
        back = torch::zeros(shape, back.options()).scatter_(2, index, back);
      }
      tangents_[&reported] = block.from_positions(back, x).reshape(g.sizes());
    } else if (tangent.defined()) {
      pair_ += 0.5 * pairs_of(tangent, columns);
    }
    if (!wants_phi || !on_phi.defined()) return;
    if (kept.defined()) {
      auto shape = on_phi.sizes().vec();
      shape[2] = all;
      const auto index = kept.unsqueeze(0).unsqueeze(3).expand_as(on_phi);
      on_phi = torch::zeros(shape, on_phi.options()).scatter_(2, index, on_phi);
    }
    if (has_leaves) {
      torch::AutoGradMode enabled(true);
      terms_ = terms_ + (block.gathered(x) * on_phi).sum();
    } else {  // without keeping the features until the backward
      inputs_.push_back(x);
      on_inputs_.push_back(block.scattered(on_phi, x));
    }
  }

  /// 1/2 sum g S g^T to the pairs of cotangents [Q, R, n, T, O], u positions summed before. Few
  /// samples at a time, so that both factors of their products lie in the cache.
  void add_pairs(const Tensor& columns, const Tensor& s, int64_t u) {
    const auto n = columns.size(2);
    const auto tile = std::clamp<int64_t>(cached_entries(columns) * n / columns.numel(), 1, n);
    const bool is_last = is_transposed(columns);
    for (int64_t begin = 0; begin < n; begin += tile) {
      const auto count = std::min(tile, n - begin);
      auto part = columns.narrow(2, begin, count);
      part = is_last ? part.transpose(3, 4).contiguous().transpose(3, 4) : part.contiguous();
      const auto pushed = spread(times(reduced(part, u), s), u).expand_as(part);
      pair_.narrow(0, begin, count).add_(pairs_of(pushed, part), 0.5);
    }
  }

  /// sum_d Lambda[n, c, d] of columns [Q, R, n, T, O].
  Tensor mixed_columns(const Tensor& columns) const {
    return mix(lambda_, columns.permute({1, 2, 0, 3, 4})).permute({2, 0, 1, 3, 4});
  }

  Layer& network_;
  const Likelihood& likelihood_;
  const std::vector<const Block*>& blocks_;
  BlockIndex index_;
  const std::vector<LogDetCotangent>& cotangents_;
  const CurvatureOptions& options_;
  int64_t count_;
  double weight_;
  bool bends_ = false;
  struct Ready {  // what a block's Gamma is to a batch, made once
    Tensor output, input;
    std::function<Tensor(const Tensor&)> on_input;
    bool has_bias = false;  // `output` is that of weight and bias
  };
  std::vector<Ready> ready_;
  const Block* with_weight_ = nullptr;  // the bias whose output factor went with its weight's
  std::unordered_map<const Block*, Tensor> tangents_;  // Gamma g at the outputs of blocks
  std::unordered_map<const Tape*, Tensor>
      output_cotangents_;         // g at the outputs of layers that bend
  Tensor lambda_, pair_, terms_;  // Lambda and M in the coordinates of the span, [n, R, R]
  std::vector<Tensor> inputs_, on_inputs_;  // where the backward starts beside `terms_`
};

}  // namespace

FrozenWeights::FrozenWeights(Layer& network) {
  const auto leaves = leaves_of(network);
  for (auto& parameter : network.parameters())
    if (parameter.requires_grad() && !is_in(leaves, parameter))
      frozen_.push_back(parameter.set_requires_grad(false));
}

FrozenWeights::~FrozenWeights() {
  for (auto& parameter : frozen_) parameter.set_requires_grad(true);
}

NamedTensors named_hyperparameters(Layer& network) {
  const auto leaves = leaves_of(network);
  NamedTensors named;
  for (const auto& item : network.named_parameters())
    if (is_in(leaves, item.value())) named.emplace_back(item.key(), item.value());
  return named;
}

std::vector<LogDetCotangent> log_det_cotangents(const Fit& fit, const Likelihood& likelihood,
                                                const Priors& priors, double temperature) {
  const auto& kron = kron_of(fit);
  for (const auto& factor : kron.factors())
    if (!factor.a.basis.defined() || !factor.b.basis.defined())
      throw UsageError("log-determinant cotangents need a fit with bases = true");
  fit.curvature->set_scale(likelihood.curvature_scale() / temperature);
  const auto precisions = precisions_of(priors, kron);
  torch::NoGradGuard no_grad;
  std::vector<LogDetCotangent> out;
  for (size_t m = 0; m < kron.blocks().size(); ++m) {
    const auto& f = kron.factors()[m];
    const double delta = precisions[m].item<double>();
    const double half = 0.5 * kron.scale() * f.correction;
    const auto &a = f.a.values, &b = f.b.values;
    LogDetCotangent cotangent;
    if (kron.blocks()[m]->is_elementwise()) {  // A is the exact sum, B (x) A its multiple
      const auto inverse = (kron.eigenvalues(m) + delta).reciprocal();  // [Q, 1, k_A]
      const auto outside = torch::full({a.size(0)}, half / delta, a.options());
      cotangent.exact = in_basis(f.a, half * inverse.squeeze(1), outside);
      out.push_back(std::move(cotangent));
      continue;
    }
    const auto of = spectral_cotangents(f, kron.scale(), delta);
    cotangent.output = in_basis(f.b, of.b, half / delta * a.sum(1));
    cotangent.input = in_basis(f.a, of.a, half / delta * b.sum(1));
    if (std::isfinite(kron.trace_ratios()[m])) {
      const auto traces_a = f.a.traces(), traces_b = f.b.traces();  // [Q]
      const auto product = (traces_a * traces_b).sum().item<double>();
      const double share = (of.a * a).sum().item<double>() / product;
      cotangent.input.diagonal(0, 1, 2).sub_(share * traces_b.unsqueeze(1));
      cotangent.output.diagonal(0, 1, 2).sub_(share * traces_a.unsqueeze(1));
      cotangent.trace = torch::full_like(traces_a, share / f.correction);
    }
    out.push_back(std::move(cotangent));
  }
  return out;
}

Tensor evidence_surrogate(Layer& network, const Likelihood& likelihood, const Samples& batch,
                          const Fit& fit, const std::vector<LogDetCotangent>& cotangents,
                          const CurvatureOptions& options) {
  expect_evaluation_mode(network);
  kron_of(fit);
  if (options.fisher != Fisher::kExact || options.rank_tolerance > 0)
    throw UsageError(
        "the gradient of the evidence in hyper-parameters of the features needs fisher exact with "
        "all its columns");
  if (batch.count() == 0) throw UsageError("evidence_surrogate: the batch has no samples");
  torch::AutoGradMode enabled(true);
  const auto leaves = leaves_of(network);
  if (leaves.empty() && !batch.inputs(0, 1).requires_grad())
    throw UsageError(
        "evidence_surrogate: neither the inputs nor any hyper-parameter of blocks and layers "
        "requires a gradient");
  const double temperature = likelihood.curvature_scale() / fit.curvature->scale();
  const double weight =
      static_cast<double>(fit.curvature->samples()) / static_cast<double>(fit.count);
  const FrozenWeights frozen(network);
  Pass pass(network, likelihood, fit, cotangents, options);
  double value = 0;
  std::vector<Tensor> slopes;  // of the leaves
  for (const auto& leaf : leaves) slopes.push_back(torch::zeros_like(leaf).detach());
  auto slope = torch::zeros({}, torch::kFloat64);  // sum of inputs times their gradients
  const auto outputs = network.forward(batch.inputs(0, 1).detach()).size(1);
  const auto step =
      cut_pass(network, batch, std::min(options.batch, batch.count()), outputs, true).samples;
  for (int64_t begin = 0; begin < batch.count(); begin += step) {
    const auto part = std::min(step, batch.count() - begin);
    const auto given = batch.inputs(begin, part);
    const auto x = given.detach().requires_grad_(given.requires_grad());
    Tape tape;
    const auto f = network.forward(x, &tape);
    const auto density = likelihood.log_density(f, batch.y.narrow(0, begin, part));
    const auto normaliser = likelihood.normaliser(f);
    const auto fitted =
        weight * ((density - normaliser) / temperature + normaliser).sum(torch::kFloat64);
    value += fitted.item<double>();
    const auto objective = fitted - pass(f, tape);
    if (!objective.requires_grad()) continue;
    std::vector<Tensor> ends = {objective}, on_ends = {torch::ones_like(objective)};
    for (size_t i = 0; i < pass.inputs().size(); ++i) {
      ends.push_back(pass.inputs()[i]);
      on_ends.push_back(-pass.on_inputs()[i]);
    }
    auto wanted = leaves;
    if (x.requires_grad()) wanted.push_back(x);
    const auto gradients = torch::autograd::grad(ends, wanted, on_ends, c10::nullopt,
                                                 /*create_graph=*/false, /*allow_unused=*/true);
    for (size_t i = 0; i < leaves.size(); ++i)
      if (gradients[i].defined()) slopes[i] += gradients[i];
    if (x.requires_grad() && gradients.back().defined())
      slope = slope + (given * gradients.back()).sum(torch::kFloat64);
  }
  batch.sum(slopes);
  value = batch.sum(value);
  for (size_t i = 0; i < leaves.size(); ++i)
    slope = slope + (leaves[i] * slopes[i]).sum(torch::kFloat64);
  return slope - slope.detach() + value;
}

}  // namespace evariste
