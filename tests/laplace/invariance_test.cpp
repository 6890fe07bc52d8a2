// What a curvature must not depend on: chunks, the order of the data, frozen parts, and the way a
// set of samples is written down.
#include "tests/catch.h"

#include <torch/csrc/autograd/autograd.h>

#include "groups/fourier.h"
#include "tests/laplace/brute_force.h"

using namespace evariste;

namespace {

constexpr int64_t kSamples = 9;

double log_evidence(Network& network, const Samples& data, const CurvatureOptions& options) {
  const auto fit = fit_curvature(network, Softmax(), data, options);
  return evaluate_evidence(fit, Softmax(), layerwise_priors(*fit.curvature, 0.3)).log_evidence;
}

Samples samples_of(const LayerExample& example) {
  return {example.inputs(kSamples), random_labels(kSamples, 3, 4)};
}

}  // namespace

TEST_CASE("the evidence does not depend on chunks or on the order of the data", "[laplace]") {
  const auto order = random_tensor({kSamples}, 5).argsort();
  for (const auto& example : layer_examples()) {
    const auto network = example.build();
    const auto data = samples_of(example);
    const Samples permuted{data.x.index_select(0, order), data.y.index_select(0, order)};
    for (const auto structure : {Structure::kKron, Structure::kEkfac, Structure::kDiag,
                                 Structure::kBlock, Structure::kFull}) {
      CAPTURE(example.type, example.title, static_cast<int>(structure));
      auto options = options_of(structure);
      const auto whole = log_evidence(*network, data, options);
      CHECK(log_evidence(*network, permuted, options) == Approx(whole).epsilon(1e-10));
      for (const int64_t batch : {1, 7}) {
        options.batch = batch;
        CHECK(log_evidence(*network, data, options) == Approx(whole).epsilon(1e-10));
      }
    }
  }
}

TEST_CASE("with drawn labels it does not depend on chunks either", "[laplace]") {
  const auto& example = layer_examples()[3];
  const auto network = example.build();
  const auto data = samples_of(example);
  for (const auto fisher : {Fisher::kMonteCarlo, Fisher::kSketch, Fisher::kEmpirical}) {
    CAPTURE(static_cast<int>(fisher));
    CurvatureOptions options;
    options.fisher = fisher;
    options.mc_samples = 3;
    options.stream = Stream(5);
    const auto whole = log_evidence(*network, data, options);
    options.batch = 2;
    CHECK(log_evidence(*network, data, options) == Approx(whole).epsilon(1e-10));
    options.stream = Stream(6);
    CHECK((log_evidence(*network, data, options) == Approx(whole).epsilon(1e-10)) ==
          (fisher == Fisher::kEmpirical));
  }
}

TEST_CASE("a sample that stands for two is a data set that holds it twice", "[laplace]") {
  for (const auto& example : layer_examples()) {
    const auto network = example.build();
    const auto data = samples_of(example);
    const Samples twice{torch::cat({data.x, data.x}), torch::cat({data.y, data.y})};
    const Samples heavy{data.x, data.y, 2 * kSamples};
    for (const auto structure : {Structure::kKron, Structure::kEkfac, Structure::kDiag,
                                 Structure::kBlock, Structure::kFull}) {
      CAPTURE(example.type, example.title, static_cast<int>(structure));
      const auto options = options_of(structure);
      const auto a = fit_curvature(*network, Softmax(), twice, options);
      const auto b = fit_curvature(*network, Softmax(), heavy, options);
      CHECK(b.log_likelihood == Approx(a.log_likelihood));
      CHECK(b.curvature->samples() == a.curvature->samples());
      const auto p = precisions_of(layerwise_priors(*a.curvature, 0.3), *a.curvature);
      CHECK(b.curvature->log_det_ratio(p) == Approx(a.curvature->log_det_ratio(p)).epsilon(1e-10));
    }
    const auto blocks = named_blocks(*network);
    const Blocks all(blocks.begin(), blocks.end());
    const auto g = log_likelihood_gradient(*network, Softmax(), twice, all, 4);
    const auto h = log_likelihood_gradient(*network, Softmax(), heavy, all, 250);
    for (size_t m = 0; m < all.size(); ++m)
      CHECK(torch::allclose(g.blocks[m], h.blocks[m], 1e-10, 1e-12));
  }
}

TEST_CASE("the gradient of the log-likelihood is autograd's", "[laplace]") {
  for (const auto& example : layer_examples()) {
    CAPTURE(example.type, example.title);
    const auto network = example.build();
    const auto data = samples_of(example);
    const auto blocks = named_blocks(*network);
    const auto found =
        log_likelihood_gradient(*network, Softmax(), data, {blocks.begin(), blocks.end()}, 4);
    const auto log_p = Softmax().log_density(network->forward(data.x), data.y).sum();
    CHECK(found.log_likelihood == Approx(log_p.item<double>()));
    std::vector<Tensor> leaves;
    for (const auto* block : blocks) leaves.push_back(block->weight());
    const auto expected = torch::autograd::grad({log_p}, leaves);
    for (size_t m = 0; m < blocks.size(); ++m)
      CHECK(torch::allclose(found.blocks[m], blocks[m]->to_matrix(expected[m]), 1e-10, 1e-11));
  }
}

TEST_CASE("Monte Carlo curvature approaches the exact one as 1/sqrt(draws)", "[laplace]") {
  const auto network = network_of(
      "input = [3]\nlayer = [{ type = 'linear', out = 4 }, { type = 'tanh' }, "
      "{ type = 'linear', out = 3 }]");
  randomise(*network, 1);
  const Samples data{random_tensor({6, 3}, 2), random_labels(6, 3, 3)};
  auto options = options_of(Structure::kFull);
  const auto hessian = [&] {
    return dynamic_cast<const DenseCurvature&>(
               *fit_curvature(*network, Softmax(), data, options).curvature)
        .hessian();
  };
  const auto exact = hessian();
  for (const auto fisher : {Fisher::kMonteCarlo, Fisher::kSketch}) {
    options.fisher = fisher;
    std::vector<double> errors;
    for (const int64_t draws : {16, 1024}) {
      options.mc_samples = draws;
      double mean = 0;
      for (uint64_t s = 0; s < 8; ++s) {
        options.stream = Stream(s);
        mean += (hessian() - exact).norm().item<double>() / 8;
      }
      errors.push_back(mean);
    }
    CHECK(errors[0] / errors[1] == Approx(8).epsilon(0.35));
  }
}

TEST_CASE(
    "the degree of equivariance: kernels scaled by a density are precisions divided by its square",
    "[laplace]") {
  // Part psi = (1) of the kernels of C4 scaled by lambda = int density psi, a rotation times its
  // modulus r (Veefkind & Cesa 2024, eq. 8): w (lambda^T phi) with precision delta is w' phi, w' =
  // w lambda^T, with precision delta / r^2.
  const auto density = GroupDensity(make_group("C4"), 2);
  Vector theta(4);
  theta << 0, 0.6, -0.3, 0.4;
  const auto c4 = make_group("C4");
  const auto mean = density.expectation(density.at(theta), c4->irrep("(1)"));
  const auto lambda =
      torch::tensor({mean(0, 0), mean(0, 1), mean(1, 0), mean(1, 1)}, torch::kFloat64).view({2, 2});
  const double r = std::sqrt(mean.determinant());
  const auto network = network_of(
      "input = [1, 5, 5]\nlayer = [{ type = 'sum', of = [{ type = 'steerable_conv', group = 'C4', "
      "out = "
      "'2 regular' }, { type = 'steerable_conv', group = 'C4', out = '2 regular', isotypic = '(1)' "
      "}] }, "
      "{ type = 'tanh' }, { type = 'flatten' }, { type = 'linear', out = 3 }]");
  randomise(*network, 2);
  const Samples data{random_tensor({40, 1, 5, 5}, 3), random_labels(40, 3, 4)};
  const auto evidence = [&](Structure structure, double precision) {
    const auto fit = fit_curvature(*network, Softmax(), data, options_of(structure));
    std::vector<double> precisions;
    for (const auto* block : fit.curvature->blocks())
      precisions.push_back(block->name == "0.1.weight" ? precision : 0.7);
    return evaluate_evidence(fit, Softmax(), layerwise_priors(*fit.curvature, precisions))
        .log_evidence;
  };
  const Structure structures[] = {Structure::kKron, Structure::kFull, Structure::kBlock};
  std::vector<double> plain;
  for (const auto structure : structures) plain.push_back(evidence(structure, 1.3 / (r * r)));
  torch::NoGradGuard no_grad;
  auto basis = network->named_buffers()["0.1.basis"];  // [N, d_b, d_a, k, k], N = copies x 2
  auto weight = network->named_parameters()["0.1.weight"];
  basis.copy_(
      torch::einsum("ba,cb...->ca...", {lambda, basis.unflatten(0, {-1, 2})}).flatten(0, 1));
  // sum_a w_a B_a = sum_a v_a B'_a, B'_a = sum_b lambda_ba B_b: w = v lambda^T.
  weight.copy_(weight.unflatten(1, {-1, 2}).matmul(at::linalg_inv(lambda).t()).flatten(1));
  for (size_t s = 0; s < plain.size(); ++s)
    CHECK(evidence(structures[s], 1.3) == Approx(plain[s]).epsilon(1e-10));
}
