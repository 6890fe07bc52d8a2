// Bounds of the evidence from parts of the data, against the evidence of the full GGN.
#include "tests/catch.h"

#include "core/error.h"
#include "laplace/bounds.h"
#include "laplace/priors/builtin.h"
#include "tests/laplace/brute_force.h"
#include "tests/nn/layer_examples.h"

using namespace evariste;

namespace {

struct Small {
  std::shared_ptr<Network> network;
  Samples data;
  Priors priors;
  std::shared_ptr<Likelihood> likelihood = std::make_shared<Softmax>();

  explicit Small(int64_t n = 24, int64_t classes = 3) {
    network = network_of(fmt::format(
        "input = [1, 4, 4]\nlayer = [{{ type = 'conv', out = 2, kernel = 3, padding = 1 }}, "
        "{{ type = 'tanh' }}, {{ type = 'flatten' }}, {{ type = 'linear', out = {} }}]",
        classes));
    network->to(torch::kFloat64);
    initialise(*network, Stream(1), 1);
    network->eval();
    data = {random_tensor({n, 1, 4, 4}, 3), torch::arange(n).remainder(classes)};
    for (size_t m = 0; m < named_blocks(*network).size(); ++m)
      priors.emplace_back(IsotropicGaussian(0.2 + 0.3 * static_cast<double>(m)));
  }
  double full() const {
    CurvatureOptions options;
    options.structure = Structure::kFull;
    return evaluate_evidence(fit_curvature(*network, *likelihood, data, options), *likelihood,
                             priors)
        .log_evidence;
  }
  EvidenceBound bound(BoundOptions options) const {
    return bound_evidence(*network, *likelihood, data, priors, options);
  }
};

/// The samples in the order in which parts at random are filled.
Tensor filling(const BoundOptions& options, int64_t n) {
  auto order = torch::arange(n);
  auto* p = order.data_ptr<int64_t>();
  Draws draws(options.stream.split("order"));
  for (int64_t i = n - 1; i > 0; --i) std::swap(p[i], p[draws.below(static_cast<uint64_t>(i + 1))]);
  return order;
}

}  // namespace

TEST_CASE("a part that is all of the data has the evidence itself", "[bounds]") {
  Small small;
  BoundOptions options;
  options.samples = small.data.count();
  CHECK(small.bound(options).log_evidence == Approx(small.full()).epsilon(1e-11));
  options.bound = Bound::kParametric;
  options.curvature.structure = Structure::kFull;
  const auto parametric = small.bound(options);
  CHECK(parametric.log_evidence == Approx(small.full()).epsilon(1e-11));
  CHECK(parametric.log_evidence ==
        Approx(parametric.log_likelihood - 0.5 * (parametric.log_det_ratio + parametric.scatter)));
  small.likelihood = std::make_shared<Gaussian>(0.7);
  small.data.y = random_tensor({24, 3}, 8);
  options.bound = Bound::kNtk;
  CHECK(small.bound(options).log_evidence == Approx(small.full()).epsilon(1e-11));
}

TEST_CASE("smaller parts bound the evidence more loosely, never from above", "[bounds]") {
  const Small small;
  const double exact = small.full();
  for (const bool by_class : {false, true}) {
    double last = exact;
    for (const int64_t samples : {24, 12, 6, 3, 1}) {
      CAPTURE(samples, by_class);
      BoundOptions options;
      options.samples = samples;
      options.by_class = by_class;
      const auto ntk = small.bound(options);
      CHECK(ntk.parts == 24 / samples);
      CHECK(ntk.log_evidence <= last + 1e-9);
      last = ntk.log_evidence;  // parts of a part: nested for these sizes and one order
      options.bound = Bound::kParametric;
      options.curvature.structure = Structure::kFull;
      CHECK(small.bound(options).log_evidence == Approx(ntk.log_evidence).epsilon(1e-10));
      options.curvature.structure = Structure::kBlock;
      CHECK(small.bound(options).log_evidence <= ntk.log_evidence + 1e-9);
      CHECK(std::isnan(ntk.spread) == (samples == 24));
    }
  }
}

TEST_CASE("independent outputs are the diagonal of Lambda, and one of them is unbiased",
          "[bounds]") {
  const Small small(10);
  const auto named = named_blocks(*small.network);
  const Blocks blocks(named.begin(), named.end());
  const auto jacobian = autograd_jacobian(*small.network, small.data.x, blocks);  // [N, C, P]
  torch::NoGradGuard no_grad;
  const auto p = small.network->forward(small.data.x).softmax(1);
  std::vector<Tensor> inverse;
  for (size_t m = 0; m < blocks.size(); ++m)
    inverse.push_back(torch::full({blocks[m]->parameters()},
                                  1 / (0.2 + 0.3 * static_cast<double>(m)), torch::kFloat64));
  const auto variance = torch::cat(inverse);
  std::vector<double> terms;
  for (int64_t c = 0; c < 3; ++c) {
    const auto j = jacobian.select(1, c);
    const auto k = (j * variance).mm(j.t());
    const auto lambda = (p.select(1, c) * (1 - p.select(1, c))).diag();
    terms.push_back(torch::logdet(torch::eye(10, torch::kFloat64) + lambda.mm(k)).item<double>());
  }
  BoundOptions options;
  options.samples = 10;
  options.bound = Bound::kNtkIndependent;
  CHECK(small.bound(options).log_det_ratio ==
        Approx(terms[0] + terms[1] + terms[2]).epsilon(1e-10));
  options.bound = Bound::kNtkSingle;
  std::vector<bool> seen(3);
  for (uint64_t seed = 0; seed < 20; ++seed) {
    options.stream = Stream(seed);
    const double found = small.bound(options).log_det_ratio;
    size_t nearest = 0;
    for (size_t c = 0; c < 3; ++c)
      if (std::abs(found - 3 * terms[c]) < std::abs(found - 3 * terms[nearest])) nearest = c;
    CHECK(found == Approx(3 * terms[nearest]).epsilon(1e-10));
    seen[nearest] = true;
  }
  CHECK(std::count(seen.begin(), seen.end(), true) == 3);
}

TEST_CASE("parts by class hold samples of one class, and of few at their edges", "[bounds]") {
  // Where all samples of a class are the same, a part of them has one direction each: parts by
  // class lose less than parts at random.
  Small small;
  const auto patterns = random_tensor({3, 1, 4, 4}, 6);
  small.data.x = patterns.index_select(0, small.data.y);
  BoundOptions options;
  options.samples = 8;
  const auto random = small.bound(options);
  options.by_class = true;
  const auto by_class = small.bound(options);
  CHECK(by_class.log_evidence > random.log_evidence + 0.1);
  CHECK(by_class.log_evidence < small.full());
}

TEST_CASE("a few parts stand for all, and the last one takes what is left", "[bounds]") {
  const Small small(25);
  BoundOptions options;
  options.samples = 8;
  CHECK(small.bound(options).parts == 3);
  CHECK(small.bound(options).log_likelihood ==
        Approx(small.likelihood->log_density(small.network->forward(small.data.x), small.data.y)
                   .sum()
                   .item<double>()));
  options.parts = 2;
  const auto some = small.bound(options);
  CHECK(some.parts == 2);
  // 16 of 25 samples, scaled to all; each part by itself is what it would be as the only data.
  const auto order = filling(options, small.data.count());
  double log_likelihood = 0, log_det = 0;
  std::vector<double> values;
  for (const int64_t first : {0, 8}) {
    auto part = small;
    part.data = small.data.select(order.narrow(0, first, 8));
    BoundOptions whole;
    whole.samples = 8;
    const auto alone = part.bound(whole);
    log_likelihood += alone.log_likelihood;
    log_det += alone.log_det_ratio;
    values.push_back(25.0 / 8 * (alone.log_likelihood - 0.5 * alone.log_det_ratio));
  }
  CHECK(some.log_likelihood == Approx(25.0 / 16 * log_likelihood));
  CHECK(some.log_det_ratio == Approx(25.0 / 16 * log_det));
  CHECK(some.spread == Approx(std::abs(values[0] - values[1]) / std::sqrt(2)));
}

TEST_CASE("bounds refuse what they are not defined for", "[bounds]") {
  Small small;
  BoundOptions options;
  options.samples = 25;
  CHECK_THROWS_WITH(small.bound(options), Contains("1 ... 24"));
  options.samples = 5;
  small.likelihood = std::make_shared<Gaussian>();
  small.data.y = random_tensor({24, 3}, 8);
  options.by_class = true;
  CHECK_THROWS_WITH(small.bound(options), Contains("labels that are classes"));
  small.priors.pop_back();
  options.by_class = false;
  CHECK_THROWS_WITH(small.bound(options), Contains("a prior for each of 4 blocks, found 3"));
}
