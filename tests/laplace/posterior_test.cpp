// The posterior as one thing: written down, put on another network, sampled.
#include "tests/catch.h"

#include "core/error.h"
#include "laplace/low_rank.h"
#include "laplace/posterior.h"
#include "laplace/predictive.h"
#include "laplace/prior_fit.h"
#include "tests/laplace/brute_force.h"

using namespace evariste;

namespace {

constexpr const char* kNetwork =
    "input = [1, 4, 4]\nlayer = [{ type = 'conv', out = 2, kernel = 3 }, { type = 'tanh' }, "
    "{ type = 'flatten' }, { type = 'linear', out = 3 }]";
const std::vector<std::string> kLikelihoods = {"classification", "regression", "bernoulli"};

Tensor labels_for(const std::string& likelihood, int64_t n) {
  if (likelihood == "classification") return random_labels(n, 3, 4);
  const auto y = random_tensor({n, 3}, 5);
  return likelihood == "regression" ? y : (y > 0).to(torch::kFloat64);
}

std::shared_ptr<Network> random_network(uint64_t seed, const char* text = kNetwork) {
  auto network = network_of(text);
  randomise(*network, seed);
  return network;
}

/// One precision of its own for each block.
Priors uneven_priors(const Curvature& curvature) {
  std::vector<double> precisions;
  for (size_t m = 0; m < curvature.blocks().size(); ++m)
    precisions.push_back(0.3 + 1.7 * static_cast<double>(m));
  return layerwise_priors(curvature, precisions);
}

/// `n` samples: few leave thin bases.
Posterior posterior_of(Network& network, const std::string& structure,
                       const std::string& likelihood, int64_t n = 12) {
  Posterior out;
  out.likelihood = make_likelihood(likelihood, likelihood == "regression" ? 0.4 : 1.0);
  out.temperature = 0.7;
  const Samples data{random_tensor({n, 1, 4, 4}, 2), labels_for(likelihood, n)};
  if (structure == "lowrank") {
    LowRankOptions options;
    options.rank = 9;
    out.fit = fit_low_rank(network, *out.likelihood, data, options);
  } else {
    CurvatureOptions options;
    options.structure = structure == "ekfac"       ? Structure::kEkfac
                        : structure == "diag"      ? Structure::kDiag
                        : structure == "block"     ? Structure::kBlock
                        : structure == "full"      ? Structure::kFull
                        : structure == "lastlayer" ? Structure::kLastLayer
                                                   : Structure::kKron;
    if (structure == "joint") options.bias = BiasCurvature::kJoint;
    out.fit = fit_curvature(network, *out.likelihood, data, options);
  }
  out.priors = uneven_priors(*out.fit.curvature);
  return out;
}

void expect_equal(const Posterior& a, Network& network_a, const Posterior& b, Network& network_b) {
  const auto ea = a.evidence(), eb = b.evidence();
  CHECK(ea.log_evidence == eb.log_evidence);
  CHECK(ea.n == eb.n);
  REQUIRE(ea.blocks.size() == eb.blocks.size());
  for (size_t m = 0; m < ea.blocks.size(); ++m) {
    CHECK(ea.blocks[m].name == eb.blocks[m].name);
    CHECK(ea.blocks[m].prior_precision == eb.blocks[m].prior_precision);
    CHECK(ea.blocks[m].effective_dimension == eb.blocks[m].effective_dimension);
    const double x = ea.blocks[m].trace_ratio, y = eb.blocks[m].trace_ratio;
    CHECK((x == y || (std::isnan(x) && std::isnan(y))));
  }
  const auto x = random_tensor({5, 1, 4, 4}, 8);
  const auto fa = output_distribution(network_a, x, *a.fit.curvature, a.priors);
  const auto fb = output_distribution(network_b, x, *b.fit.curvature, b.priors);
  CHECK(torch::equal(fa.mean, fb.mean));
  CHECK(torch::equal(fa.covariance, fb.covariance));
  const auto sa = posterior_samples(a, 3, Stream(6)), sb = posterior_samples(b, 3, Stream(6));
  REQUIRE(sa.size() == sb.size());
  for (size_t i = 0; i < sa.size(); ++i) {
    CHECK(sa[i].first == sb[i].first);
    CHECK(torch::equal(sa[i].second, sb[i].second));
  }
}

}  // namespace

TEST_CASE("a posterior put on another network gives every number of the first, to the bit",
          "[posterior]") {
  for (const auto* structure :
       {"kron", "joint", "ekfac", "diag", "block", "full", "lastlayer", "lowrank"}) {
    for (const auto& likelihood : kLikelihoods) {
      CAPTURE(structure, likelihood);
      const auto network = random_network(1), other = random_network(1);
      for (const int64_t n : {2, 12}) {
        const auto posterior = posterior_of(*network, structure, likelihood, n);
        const auto record = record_of(posterior, posterior.evidence());
        {
          torch::NoGradGuard no_grad;
          for (const auto* block : posterior.fit.curvature->blocks())
            for (auto* mine : named_blocks(*other))
              if (block->name.starts_with(mine->name)) mine->weight().zero_();
        }
        expect_equal(posterior, *network, restore(record, *other, "p.h5"), *other);
      }
    }
  }
}

TEST_CASE("priors come back as they were: shared, per entry, with their constants", "[posterior]") {
  const auto network = random_network(1);
  const auto round = [&](const Posterior& posterior) {
    const auto record = record_of(posterior, posterior.evidence());
    const auto other = random_network(1);
    const auto back = restore(record, *other, "p.h5");
    CHECK(back.evidence().log_evidence == posterior.evidence().log_evidence);
    return back;
  };
  auto posterior = posterior_of(*network, "diag", "classification");
  const Prior one(IsotropicGaussian(0.9));
  posterior.priors = {one, one, Prior(GammaGaussian(1.3, 2.5, 0.2)), one};
  const auto back = round(posterior);
  CHECK(back.priors[0].is_same(back.priors[1]));
  CHECK(back.priors[0].is_same(back.priors[3]));
  CHECK(!back.priors[0].is_same(back.priors[2]));
  CHECK(back.priors[2].constants() == std::map<std::string, double>{{"shape", 2.5}, {"rate", 0.2}});

  for (size_t m = 0; m < posterior.priors.size(); ++m) {
    const auto shape = posterior.fit.curvature->blocks()[m]->value().sizes().vec();
    DiagonalGaussian prior(1.0, shape);
    torch::NoGradGuard no_grad;
    Tensor(prior.hyperparameters()[0].second).copy_(random_tensor(shape, 30 + m));
    posterior.priors[m] = Prior(std::move(prior));
  }
  const auto again = round(posterior);
  CHECK(torch::equal(again.priors[2].hyperparameters()[0].second,
                     posterior.priors[2].hyperparameters()[0].second));
}

TEST_CASE("the prior of a loaded posterior can be fitted anew", "[posterior]") {
  const auto network = random_network(1), other = random_network(1);
  const auto posterior = posterior_of(*network, "kron", "regression");
  const auto record = record_of(posterior, posterior.evidence());
  const auto back = restore(record, *other, "p.h5");
  posterior.set_scale();
  fit_priors_newton(posterior.priors, *posterior.fit.curvature);
  fit_priors_newton(back.priors, *back.fit.curvature);
  expect_equal(posterior, *network, back, *other);
}

TEST_CASE("samples are the weights plus draws of N(0, P^-1), in the shapes of the parameters",
          "[posterior]") {
  for (const auto* structure : {"full", "joint"}) {
    const auto network = random_network(1);
    const auto posterior = posterior_of(*network, structure, "classification");
    const auto& curvature = *posterior.fit.curvature;
    const auto samples = posterior_samples(posterior, 4, Stream(9));
    REQUIRE(samples.size() == 4);
    CHECK(samples[0].first == "0.weight");
    CHECK(samples[0].second.sizes() == at::IntArrayRef({4, 2, 1, 3, 3}));
    CHECK(samples[1].second.sizes() == at::IntArrayRef({4, 2}));
    const auto draw =
        curvature.sample(precisions_of(posterior.priors, curvature), Stream(9).split(uint64_t{2}));
    // The network moved by the draw has the weights of sample 2.
    for (size_t m = 0; m < draw.size(); ++m)
      set_value(*curvature.blocks()[m], curvature.blocks()[m]->value() + draw[m]);
    const auto moved = network->named_parameters();
    for (const auto& [name, values] : samples) {
      CAPTURE(structure, name);
      CHECK(torch::allclose(values[2], moved[name], 1e-14, 1e-14));
    }
    CHECK(torch::equal(
        posterior_samples(posterior_of(*random_network(1), structure, "classification"), 3,
                          Stream(9))[0]
            .second[1],
        samples[0].second[1]));
  }
}

TEST_CASE("a posterior on another network is refused, and says what it expected and found",
          "[posterior]") {
  const auto network = random_network(1);
  const auto posterior = posterior_of(*network, "kron", "classification");
  const auto record = record_of(posterior, posterior.evidence());
  const auto message = [&](const PosteriorRecord& of, Network& on) -> std::string {
    try {
      restore(of, on, "p.h5");
    } catch (const UsageError& error) {
      return error.what();
    } catch (const IoError& error) {
      return std::string("damaged: ").append(error.what());
    }
    return "";
  };
  const auto names = random_network(
      1, "input = [1, 4, 4]\nlayer = [{ type = 'flatten' }, { type = 'linear', out = 3 }]");
  CHECK_THAT(message(record, *names),
             Contains("another network: expected a block \"0.weight\", found 1.weight, 1.bias"));
  const auto shapes = random_network(
      1,
      "input = [1, 4, 4]\nlayer = [{ type = 'conv', out = 5, kernel = 3 }, { type = 'tanh' }, "
      "{ type = 'flatten' }, { type = 'linear', out = 3 }]");
  CHECK_THAT(message(record, *shapes), Contains("expected [1, 2, 9], found [1, 5, 9]"));
  const auto single = random_network(1);
  single->to(torch::kFloat32);
  CHECK_THAT(message(record, *single), Contains("expected a network in float64, found float32"));

  auto wrong = record;
  wrong.priors[0].name = "isotropic-gausian";
  CHECK_THAT(message(wrong, *network), Contains("\"isotropic-gaussian\""));
  wrong = record;
  wrong.curvature.structure = "kronn";
  CHECK_THAT(message(wrong, *network), Contains("\"kron\""));
  wrong = record;
  wrong.curvature.blocks[1].pop_back();
  CHECK_THAT(message(wrong, *network), Contains("damaged: p.h5: 0.bias: the array \"a_basis\""));
  wrong = record;
  wrong.blocks[2].prior = 7;
  CHECK_THAT(message(wrong, *network), Contains("prior 7 of 4"));

  CurvatureOptions options;
  options.bases = false;
  Posterior thin = posterior_of(*network, "kron", "classification");
  thin.fit = fit_curvature(*network, Softmax(),
                           {random_tensor({9, 1, 4, 4}, 2), random_labels(9, 3, 4)}, options);
  const auto evidence = thin.evidence();
  CHECK_THROWS_AS(record_of(thin, evidence), UsageError);
}

TEST_CASE("every prior says the constants that make it again", "[posterior]") {
  const auto network = random_network(1);
  for (const auto& [name, builtin] : builtin_priors()) {
    CAPTURE(name);
    toml::table table;
    double value = 0.25;
    for (const auto& [key, usual] : builtin.keys) table.insert(key, value += 1);
    auto posterior = posterior_of(*network, "diag", "classification");
    for (size_t m = 0; m < posterior.priors.size(); ++m)
      posterior.priors[m] =
          builtin.make({table, 0.7, posterior.fit.curvature->blocks()[m]->value().sizes()});
    const auto record = record_of(posterior, posterior.evidence());
    const auto back = restore(record, *network, "p.h5");
    CHECK(back.evidence().log_evidence == posterior.evidence().log_evidence);
    CHECK(back.priors[0].constants().size() == builtin.keys.size());
  }
}
