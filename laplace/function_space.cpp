#include "laplace/function_space.h"

#include <map>

#include "core/error.h"
#include "laplace/predictive.h"
#include "laplace/statistics.h"

namespace evariste {
namespace {

void expect_points(const Tensor& x, const Tensor& other) {
  if (x.size(0) == 0 || other.size(0) == 0)
    throw UsageError("a covariance between outputs needs at least one point on either side");
}

/// Per-sample gradients as rows, [C n, Q O J], the entries times `scales`, a number or [Q, O, J].
Tensor gradient_rows(const Curvature::Visit& visit, const Tensor& scales) {
  const auto gradients = sample_gradients(*visit.block, visit.x, visit.g);  // [Q, C, n, O, J]
  return (gradients.permute({1, 2, 0, 3, 4}) * scales).flatten(2).flatten(0, 1);
}

/// One block's share of the covariance of two chunks, [C n, C m].
Tensor share_of(const Curvature::Visit& a, const Curvature::Visit& b, const Tensor& precision) {
  const auto& block = *a.block;
  const auto rows = [&](const Tensor& g) { return block.to_positions(g.flatten(0, 1)); };
  const auto left = rows(a.g), right = rows(b.g);  // [Q, C n, T, O]
  const auto scale = precision.to(left.scalar_type()).reciprocal();
  if (left.size(2) > 1 || right.size(2) > 1 || precision.dim() > 0)
    return gradient_rows(a, scale).matmul(gradient_rows(b, torch::ones_like(scale)).t());
  const auto features = block.phi(a.x).squeeze(2), others = block.phi(b.x).squeeze(2);  // [Q, n, J]
  const auto of_features = features.matmul(others.transpose(1, 2));                     // [Q, n, m]
  const auto of_cotangents = left.squeeze(2).matmul(right.squeeze(2).transpose(1, 2));
  const auto folds = a.g.size(0);
  const auto both = of_cotangents.view({left.size(0), folds, a.x.size(0), folds, b.x.size(0)}) *
                    of_features.unsqueeze(1).unsqueeze(3);
  return scale * both.sum(0).flatten(0, 1).flatten(1);
}

}  // namespace

Tensor prior_covariance(Layer& network, const Tensor& x, const Tensor& other,
                        const std::vector<const Block*>& blocks, const Precisions& precisions,
                        int64_t batch) {
  expect_points(x, other);
  torch::NoGradGuard no_grad;
  const auto n = x.size(0), m = other.size(0);
  const auto outputs = network.forward(x.narrow(0, 0, 1)).size(1);
  auto covariance = torch::zeros({n, outputs, m, outputs}, x.options());
  visit_outputs(network, x, blocks, batch, [&](int64_t i, const Tensor&, const auto& left) {
    visit_outputs(network, other, blocks, batch,
                  [&](int64_t j, const Tensor& f, const auto& right) {
                    const auto rows = left[0].x.size(0), columns = f.size(0);
                    auto part = torch::zeros({outputs * rows, outputs * columns}, x.options());
                    for (size_t b = 0; b < blocks.size(); ++b)
                      part += share_of(left[b], right[b], precisions[b]);
                    covariance.narrow(0, i, rows).narrow(2, j, columns) =
                        part.view({outputs, rows, outputs, columns}).permute({1, 0, 3, 2});
                  });
  });
  return covariance;
}

Tensor posterior_covariance(Layer& network, const Tensor& x, const Tensor& other,
                            const Curvature& curvature, const Priors& priors, int64_t batch) {
  expect_points(x, other);
  torch::NoGradGuard no_grad;
  const auto precisions = precisions_of(priors, curvature);
  const auto& blocks = curvature.blocks();
  std::vector<Tensor> rows;
  visit_outputs(network, x, blocks, batch, [&](int64_t, const Tensor& f, const auto& visits) {
    for (int64_t i = 0; i < f.size(0); ++i) {
      std::map<const Block*, std::vector<Tensor>> directions;  // of all outputs of a sample
      for (int64_t c = 0; c < f.size(1); ++c) {
        std::vector<Tensor> gradients;
        for (const auto& visit : visits)
          gradients.push_back(
              visit.block->gradient(visit.x.narrow(0, i, 1), visit.g[c].narrow(0, i, 1)));
        const auto solved = curvature.solve(gradients, precisions);
        for (size_t b = 0; b < blocks.size(); ++b)
          for (const auto& [part, value] : blocks[b]->parts(solved[b].to(f.scalar_type())))
            directions[part].push_back(value);
      }
      const auto moves = along([&](const Block& block) {
        const auto found = directions.find(&block);
        return found == directions.end() ? Tensor() : torch::stack(found->second);
      });
      std::vector<Tensor> columns;  // [C, .., C]
      for (int64_t begin = 0; begin < other.size(0); begin += batch) {
        Tape tape;
        network.forward(other.narrow(0, begin, std::min(batch, other.size(0) - begin)), &tape);
        columns.push_back(network.jvp(Tensor(), tape, moves));
      }
      rows.push_back(torch::cat(columns, 1));
    }
  });
  return torch::stack(rows);
}

}  // namespace evariste
