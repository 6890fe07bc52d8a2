// Covariances of the outputs between points, under prior and posterior.
#include "laplace/function_space.h"

#include "core/error.h"
#include "laplace/predictive.h"
#include "tests/catch.h"
#include "tests/laplace/brute_force.h"

using namespace evariste;

namespace {

double largest(const Tensor& t) { return t.abs().max().item<double>(); }

}  // namespace

TEST_CASE("the covariance between points is J P^-1 J'^T, for every layer", "[function_space]") {
  for (const auto& example : layer_examples()) {
    CAPTURE(example.type, example.title);
    const auto network = example.build();
    const auto x = example.inputs(3, 8), other = example.inputs(5, 9);
    const Samples data{example.inputs(20), random_labels(20, 3, 4)};
    const auto fit = fit_curvature(*network, Softmax(), data, {});
    const auto& blocks = fit.curvature->blocks();
    const auto priors = layerwise_priors(*fit.curvature, 0.6);
    const auto precisions = precisions_of(priors, *fit.curvature);
    const auto left = autograd_jacobian(*network, x, blocks).flatten(0, 1),
               right = autograd_jacobian(*network, other, blocks).flatten(0, 1);
    const auto close = [&](const Tensor& found, const Tensor& expected) {
      REQUIRE(found.sizes() == at::IntArrayRef({3, 3, 5, 3}));
      CHECK(largest(found.flatten(0, 1).flatten(1) - expected) < 1e-8 * largest(expected));
    };
    close(prior_covariance(*network, x, other, blocks, precisions, 2),
          left.matmul(right.t()) / 0.6);
    const auto p = dense_precision(*fit.curvature, precisions);
    close(posterior_covariance(*network, x, other, *fit.curvature, priors, 2),
          left.matmul(at::linalg_inv(p)).matmul(right.t()));
  }
}

TEST_CASE("between points as at one: joint blocks, and one precision per entry",
          "[function_space]") {
  const auto network = network_of(
      "input = [3]\nlayer = [{ type = 'linear', out = 4 }, { type = 'tanh' }, "
      "{ type = 'linear', out = 3 }]");
  randomise(*network, 1);
  const Samples data{random_tensor({9, 3}, 2), random_labels(9, 3, 4)};
  const auto x = random_tensor({4, 3}, 5);
  auto options = options_of(Structure::kKron);
  options.bias = BiasCurvature::kJoint;
  const auto fit = fit_curvature(*network, Softmax(), data, options);
  const auto priors = layerwise_priors(*fit.curvature, 0.6);
  const auto at_points = output_distribution(*network, x, *fit.curvature, priors).covariance;
  const auto between = posterior_covariance(*network, x, x, *fit.curvature, priors);
  for (int64_t i = 0; i < 4; ++i)
    CHECK(largest(between[i].select(1, i) - at_points[i]) < 1e-10 * largest(at_points));

  const auto diagonal = fit_curvature(*network, Softmax(), data, options_of(Structure::kDiag));
  const auto& blocks = diagonal.curvature->blocks();
  Precisions entries;
  std::vector<Tensor> flat;
  for (size_t m = 0; m < blocks.size(); ++m) {
    entries.push_back(random_tensor(blocks[m]->value().sizes(), 20 + m).exp());
    flat.push_back(entries.back().flatten());
  }
  const auto j = autograd_jacobian(*network, x, blocks).flatten(0, 1);
  const auto expected = (j / torch::cat(flat)).matmul(j.t());
  const auto found = prior_covariance(*network, x, x, blocks, entries, 3);
  CHECK(largest(found.flatten(0, 1).flatten(1) - expected) < 1e-10 * largest(expected));
  CHECK_THROWS_AS(prior_covariance(*network, x.narrow(0, 0, 0), x, blocks, entries), UsageError);
}
