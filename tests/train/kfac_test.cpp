// The K-FAC step in eigenbases against the formula in ordinary coordinates, computed densely.
#include "tests/catch.h"

#include "core/error.h"
#include "tests/io/temporary_folder.h"
#include "tests/nn/layer_examples.h"
#include "train/kfac.h"

using namespace evariste;

namespace {

using Tensors = std::vector<Tensor>;  // one per block, [Q, O, J]

double dot(const Tensors& a, const Tensors& b) {
  double sum = 0;
  for (size_t m = 0; m < a.size(); ++m) sum += (a[m] * b[m]).sum().item<double>();
  return sum;
}

double largest_difference(const Tensors& a, const Tensors& b) {
  double largest = 0;
  for (size_t m = 0; m < a.size(); ++m)
    largest = std::max(largest, (a[m] - b[m]).abs().max().item<double>());
  return largest;
}

KfacConfig plain() {
  KfacConfig config;
  config.damping_every = 0;
  config.damping = 4;
  config.clip = 1e12;
  return config;
}

/// A network, its data and the step under test.
struct Problem {
  std::shared_ptr<Network> network, reference;  // the second stays in ordinary coordinates
  std::unique_ptr<Likelihood> likelihood;
  Samples data;
  std::vector<Block*> blocks, reference_blocks;
  std::vector<double> precisions;

  Problem(const std::string& layers, std::vector<int64_t> input, int64_t n, int64_t classes)
      : network(network_of(layers)),
        reference(network_of(layers)),
        likelihood(std::make_unique<Softmax>()) {
    randomise(*network, 3);
    randomise(*reference, 3);
    input.insert(input.begin(), n);
    data = {random_tensor(input, 4), torch::arange(n).remainder(classes), 0};
    blocks = named_blocks(*network);
    reference_blocks = named_blocks(*reference);
    for (size_t m = 0; m < blocks.size(); ++m) precisions.push_back(0.5 + static_cast<double>(m));
  }

  /// Refreshed at the present weights.
  std::shared_ptr<KronCurvature> curvature(Fisher fisher = Fisher::kExact) {
    CurvatureOptions options;
    options.fisher = fisher;
    auto fit = fit_curvature(*network, *likelihood, data, options);
    fit.curvature->set_scale(likelihood->curvature_scale());
    return std::dynamic_pointer_cast<KronCurvature>(fit.curvature);
  }

  Samples batch(int64_t step, int64_t count) const {
    return {data.x.narrow(0, step * count, count), data.y.narrow(0, step * count, count), 0};
  }

  double weight(int64_t count) const {
    return static_cast<double>(data.count()) / static_cast<double>(count);
  }

  double step(KfacStep& kfac, const Samples& rows, double lr, bool average = false) {
    const auto loss = [&](bool with_gradient) {
      torch::NoGradGuard no_grad;
      Tape tape;
      const auto f = network->forward(rows.x, with_gradient ? &tape : nullptr);
      if (with_gradient)
        network->backward(
            likelihood->score(f, rows.y).unsqueeze(0), tape,
            [&](const Block& block, const Tensor& x, const Tensor& g) {
              kfac.gradient(block, x, g[0]);
            },
            false);
      return -likelihood->log_density(f, rows.y).sum().item<double>();
    };
    return kfac.step(loss, lr, weight(rows.count()), average);
  }

  Tensors weights(const std::vector<Block*>& of) const {
    Tensors out;
    for (const auto* block : of) out.push_back(block->value().detach().clone());
    return out;
  }
  void set_reference(const Tensors& theta) {
    torch::NoGradGuard no_grad;
    for (size_t m = 0; m < theta.size(); ++m)
      reference_blocks[m]->weight().copy_(reference_blocks[m]->from_matrix(theta[m]));
  }

  /// Gradient of F at the reference's weights, from a minibatch.
  Tensors gradient(const Samples& rows) {
    const std::vector<const Block*> of(reference_blocks.begin(), reference_blocks.end());
    auto g = log_likelihood_gradient(*reference, *likelihood, rows, of, rows.count()).blocks;
    const auto theta = weights(reference_blocks);
    for (size_t m = 0; m < g.size(); ++m)
      g[m] = -weight(rows.count()) * g[m] + precisions[m] * theta[m];
    return g;
  }
  double loss(const Samples& rows) const {
    return -likelihood->log_density(reference->forward(rows.x), rows.y).sum().item<double>();
  }
  Precisions precision_tensors() const {
    Precisions out;
    for (const double p : precisions) out.push_back(torch::tensor(p, torch::kFloat64));
    return out;
  }
};

const char* const kSmall =
    "input = [2, 6, 6]\nlayer = [{ type = 'conv', out = 4, kernel = 3, groups = 2 }, "
    "{ type = 'tanh' }, { type = 'maxpool', kernel = 2 }, { type = 'scale' }, { type = 'flatten' "
    "}, "
    "{ type = 'linear', out = 3 }]";
// 256 x 256 = 65536 weights: the dense layer works in coordinates itself.
const char* const kLarge =
    "input = [1, 16, 16]\nlayer = [{ type = 'fc', out = 1 }, { type = 'tanh' }, "
    "{ type = 'flatten' }, { type = 'linear', out = 3 }]";

// Tied weights.
const char* const kRepeated =
    "input = [2, 4, 4]\nlayer = [{ type = 'repeat', times = 2, layer = [{ type = 'conv', out = 2, "
    "kernel = 3, padding = 1 }, { type = 'tanh' }, { type = 'fc', out = 2 }] }, "
    "{ type = 'flatten' }, { type = 'linear', out = 3 }]";

Problem small_problem() { return {kSmall, {2, 6, 6}, 60, 3}; }
Problem large_problem() { return {kLarge, {1, 16, 16}, 300, 3}; }

/// The rule in ordinary coordinates.
struct DenseStep {
  Problem& problem;
  KfacConfig config;
  Tensors momentum, sum;
  int64_t averaged = 0;
  double last_nu = 1;

  void step(const KronCurvature& curvature, const Samples& rows, double lr, bool average) {
    const auto g = problem.gradient(rows);
    const auto u = curvature.solve(g, problem.precision_tensors(), config.damping);
    last_nu = std::min(1.0, std::sqrt(config.clip * static_cast<double>(problem.data.count()) /
                                      (lr * lr * dot(u, g))));
    auto theta = problem.weights(problem.reference_blocks);
    for (size_t m = 0; m < theta.size(); ++m) {
      const auto old = momentum.size() > m ? momentum[m] : torch::zeros_like(u[m]);
      const auto next = config.momentum * old + last_nu * u[m];
      momentum.resize(std::max(momentum.size(), m + 1));
      momentum[m] = next;
      theta[m] = theta[m] - lr * next;
      if (!average) continue;
      sum.resize(std::max(sum.size(), m + 1));
      sum[m] = averaged == 0 ? theta[m] : sum[m] + theta[m];
    }
    averaged += average;
    problem.set_reference(theta);
  }
  void leave() {
    if (averaged == 0) return;
    for (auto& s : sum) s = s / static_cast<double>(averaged);
    problem.set_reference(sum);
    averaged = 0;
  }
};

/// Two epochs with bases of their own, the last steps of each averaged.
void compare(Problem problem, const KfacConfig& config, int64_t count, double lr) {
  KfacStep kfac(problem.blocks, config);
  DenseStep dense{problem, config, {}, {}};
  const auto start = problem.weights(problem.blocks);
  for (int epoch = 0; epoch < 2; ++epoch) {
    const auto curvature = problem.curvature();
    kfac.enter(*curvature, problem.precisions);
    double nu = 0;
    for (int64_t step = 0; step < 4; ++step) {
      const auto rows = problem.batch(step, count);
      const double expected = problem.loss(rows);
      CHECK(problem.step(kfac, rows, lr, step >= 2) == Approx(expected).epsilon(1e-9));
      dense.step(*curvature, rows, lr, step >= 2);
      nu += dense.last_nu / 4;
    }
    CHECK(kfac.clip_mean() == Approx(nu).epsilon(1e-9));
    kfac.leave();
    dense.leave();
    CHECK(largest_difference(problem.weights(problem.blocks),
                             problem.weights(problem.reference_blocks)) < 1e-9);
  }
  CHECK(largest_difference(problem.weights(problem.blocks), start) > 1e-3);  // not idle
}

}  // namespace

TEST_CASE("steps in eigenbases are the dense steps, momentum and average over two epochs",
          "[kfac]") {
  auto config = plain();
  SECTION("small blocks") { compare(small_problem(), config, 15, 0.1); }
  SECTION("without momentum") {
    config.momentum = 0;
    compare(small_problem(), config, 15, 0.3);
  }
  SECTION("a layer in coordinates") { compare(large_problem(), config, 50, 0.05); }
  SECTION("repeated layers") { compare({kRepeated, {2, 4, 4}, 60, 3}, config, 15, 0.02); }
}

TEST_CASE("the step is shortened to the KL bound", "[kfac]") {
  auto config = plain();
  config.clip = 1e-6;
  auto problem = small_problem();
  KfacStep kfac(problem.blocks, config);
  kfac.enter(*problem.curvature(), problem.precisions);
  problem.step(kfac, problem.batch(0, 15), 0.1);
  CHECK(kfac.clip_mean() < 0.5);
  compare(small_problem(), config, 15, 0.1);
}

TEST_CASE("entering and leaving changes neither the function nor where the weights lie", "[kfac]") {
  auto problem = GENERATE(0, 1) ? large_problem() : small_problem();
  const auto start = problem.weights(problem.blocks);
  const auto f = problem.network->forward(problem.data.x);
  std::vector<void*> places;
  for (const auto* block : problem.blocks) places.push_back(block->weight().data_ptr());
  KfacStep kfac(problem.blocks, plain());
  CHECK_FALSE(kfac.is_inside());
  kfac.enter(*problem.curvature(), problem.precisions);
  CHECK(kfac.is_inside());
  CHECK(at::allclose(problem.network->forward(problem.data.x), f, 1e-10, 1e-10));
  kfac.leave();
  CHECK_FALSE(kfac.is_inside());
  CHECK(largest_difference(problem.weights(problem.blocks), start) < 1e-12);
  CHECK(at::allclose(problem.network->forward(problem.data.x), f, 1e-11, 1e-11));
  for (size_t m = 0; m < places.size(); ++m)
    CHECK(problem.blocks[m]->weight().data_ptr() == places[m]);
  kfac.leave();  // once more does nothing
  CHECK(largest_difference(problem.weights(problem.blocks), start) < 1e-12);
}

TEST_CASE("a dense layer of 65536 weights holds coordinates while inside", "[kfac]") {
  auto problem = large_problem();
  const auto weight = problem.blocks[0]->value().detach().clone();
  KfacStep kfac(problem.blocks, plain());
  const auto curvature = problem.curvature();
  kfac.enter(*curvature, problem.precisions);
  const auto& factor = curvature->factors()[0];
  const auto coordinates = problem.blocks[0]->weight().detach().view({1, 256, 256});
  CHECK((coordinates - weight).abs().max().item<double>() > 0.1);
  CHECK(at::allclose(factor.b.basis.matmul(coordinates).matmul(factor.a.basis.transpose(1, 2)),
                     weight, 1e-10, 1e-10));
  kfac.leave();
}

TEST_CASE("on a linear Gaussian problem one undamped step reaches the mode", "[kfac]") {
  auto config = plain();
  config.damping = config.damping_min = config.momentum = 0;
  Problem problem("input = [5]\nlayer = [{ type = 'linear', out = 3, bias = false }]", {5}, 40, 3);
  problem.likelihood = std::make_unique<Gaussian>(0.6);
  problem.data.y = random_tensor({40, 3}, 9);
  KfacStep kfac(problem.blocks, config);
  kfac.enter(*problem.curvature(), problem.precisions);
  problem.step(kfac, problem.data, 1.0);
  kfac.leave();
  const auto& x = problem.data.x;
  const double beta = 1 / (0.6 * 0.6);
  const auto mode =
      at::linalg_solve(beta * x.t().mm(x) + problem.precisions[0] * torch::eye(5, torch::kFloat64),
                       beta * x.t().mm(problem.data.y));
  CHECK(at::allclose(problem.blocks[0]->weight().detach(), mode.t(), 1e-10, 1e-10));
}

TEST_CASE("the damping follows the ratio of actual to predicted decrease", "[kfac][damping]") {
  auto config = plain();
  config.damping_every = 1;
  config.damping = 10;
  config.damping_min = 9.5;
  config.damping_max = 18;
  std::set<std::string> seen;
  for (const double lr : {0.01, 0.1, 0.5, 1.0, 1.3, 1.6, 1.8, 2.2, 3.0, 10.0}) {
    CAPTURE(lr);
    auto problem = small_problem();
    KfacStep kfac(problem.blocks, config);
    const auto curvature = problem.curvature();
    kfac.enter(*curvature, problem.precisions);
    const auto rows = problem.batch(0, 15);

    const auto g = problem.gradient(rows), theta = problem.weights(problem.reference_blocks);
    const auto u = curvature->solve(g, problem.precision_tensors(), config.damping);
    auto next = theta, bent = u;
    double prior = 0;
    for (size_t m = 0; m < u.size(); ++m) {
      const auto& f = curvature->factors()[m];
      bent[m] = f.correction * f.b.dense().matmul(u[m]).matmul(f.a.dense()) +
                problem.precisions[m] * u[m];
      next[m] = theta[m] - lr * u[m];
      prior +=
          0.5 * problem.precisions[m] * (next[m].square() - theta[m].square()).sum().item<double>();
    }
    const double before = problem.loss(rows);
    problem.set_reference(next);
    const double actual = 4 * (problem.loss(rows) - before) + prior;
    const double predicted = -lr * dot(g, u) + 0.5 * lr * lr * dot(u, bent);
    const double ratio = actual / predicted;
    double expected = config.damping;
    if (predicted >= 0) {
      seen.insert("too long a step");
      expected /= config.damping_factor;
    } else if (ratio < 0) {
      seen.insert("worse");
      expected *= 2;
    } else if (ratio < 0.5) {
      seen.insert("poor");
      expected *= std::pow(config.damping_factor, -1.5);
    } else if (ratio > 0.75) {
      seen.insert("good");
      expected *= config.damping_factor;
    } else {
      seen.insert("fair");
    }
    problem.step(kfac, rows, lr);
    CAPTURE(ratio, predicted);
    CHECK(kfac.damping() == Approx(std::clamp(expected, 9.5, 18.0)));
  }
  CAPTURE(seen);
  for (const char* regime : {"too long a step", "good", "poor"}) CHECK(seen.count(regime) == 1);
}

TEST_CASE("damping is measured every so many steps, and raised on request", "[kfac][damping]") {
  auto config = plain();
  config.damping_every = 3;
  auto problem = small_problem();
  KfacStep kfac(problem.blocks, config);
  kfac.enter(*problem.curvature(), problem.precisions);
  for (int step = 1; step <= 3; ++step) {
    problem.step(kfac, problem.batch(0, 15), 1e-3);
    CHECK(kfac.damping() == Approx(step == 3 ? 4 * config.damping_factor : 4.0));
  }
  kfac.raise_damping(10);
  CHECK(kfac.damping() == Approx(40 * config.damping_factor));
  kfac.raise_damping(1e9);
  CHECK(kfac.damping() == config.damping_max);
}

TEST_CASE("the state carries momentum, damping and the count of steps", "[kfac]") {
  auto config = plain();
  config.damping_every = 2;
  auto problem = small_problem(), other = small_problem();
  KfacStep kfac(problem.blocks, config), resumed(other.blocks, config);
  const auto first = problem.curvature();
  kfac.enter(*first, problem.precisions);
  problem.step(kfac, problem.batch(0, 15), 1e-3);
  kfac.leave();
  resumed.set_state(kfac.state());
  torch::NoGradGuard no_grad;
  for (size_t m = 0; m < problem.blocks.size(); ++m)
    other.blocks[m]->weight().copy_(problem.blocks[m]->weight());
  const auto second = problem.curvature();
  kfac.enter(*second, problem.precisions);
  resumed.enter(*second, problem.precisions);
  problem.step(kfac, problem.batch(1, 15), 1e-3);
  other.step(resumed, other.batch(1, 15), 1e-3);
  kfac.leave();
  resumed.leave();
  CHECK(largest_difference(problem.weights(problem.blocks), other.weights(other.blocks)) == 0);
  CHECK(kfac.damping() == resumed.damping());
  CHECK(kfac.damping() != config.damping);
}

TEST_CASE("a refresh that does not span the inputs is refused by name", "[kfac]") {
  auto problem = large_problem();
  problem.data = problem.batch(0, 20);
  KfacStep kfac(problem.blocks, plain());
  CHECK_THROWS_AS(kfac.enter(*problem.curvature(), problem.precisions), UsageError);
  CHECK_THROWS_WITH(kfac.enter(*problem.curvature(), problem.precisions),
                    Contains("0.weight") && Contains("train.refresh.samples"));
}
