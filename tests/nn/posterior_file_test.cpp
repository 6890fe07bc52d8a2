// The posterior as a file: exact, checked, versioned.
#include "tests/catch.h"

#include "core/error.h"
#include "io/atomic_file.h"
#include "laplace/predictive.h"
#include "nn/posterior_file.h"
#include "tests/io/temporary_folder.h"
#include "tests/nn/layer_examples.h"

using namespace evariste;

namespace {

std::shared_ptr<Network> small_network() {
  auto network = network_of(
      "input = [1, 4, 4]\nlayer = [{ type = 'conv', out = 2, kernel = 3 }, { type = 'tanh' }, "
      "{ type = 'flatten' }, { type = 'linear', out = 3 }]");
  randomise(*network, 1);
  return network;
}

Posterior posterior_of(Network& network, Structure structure, int64_t n) {
  Posterior out;
  out.likelihood = make_likelihood("regression", 1.0 / 3);
  out.temperature = 0.7;
  CurvatureOptions options;
  options.structure = structure;
  out.fit = fit_curvature(network, *out.likelihood,
                          {random_tensor({n, 1, 4, 4}, 2), random_tensor({n, 3}, 3)}, options);
  for (size_t m = 0; m < out.fit.curvature->blocks().size(); ++m)
    out.priors.emplace_back(GammaGaussian(0.1 + static_cast<double>(m), 1.5, 0.3));
  return out;
}

std::string error_of(const std::function<void()>& run, int& code) {
  try {
    run();
  } catch (const Error& error) {
    code = error.exit_code();
    return error.what();
  }
  code = 0;
  return "";
}

}  // namespace

TEST_CASE("a posterior that was saved and loaded predicts to the bit", "[posterior]") {
  const TemporaryFolder folder;
  for (const auto structure : {Structure::kKron, Structure::kEkfac, Structure::kDiag,
                               Structure::kBlock, Structure::kFull, Structure::kLastLayer}) {
    for (const int64_t n : {2, 20}) {
      CAPTURE(static_cast<int>(structure), n);
      const auto network = small_network(), other = small_network();
      const auto posterior = posterior_of(*network, structure, n);
      save_posterior(folder / "p.h5", posterior);
      const auto loaded = load_posterior(folder / "p.h5", *other);
      CHECK(loaded.evidence().log_evidence == posterior.evidence().log_evidence);
      CHECK(loaded.priors[0].constants() == posterior.priors[0].constants());
      const auto x = random_tensor({5, 1, 4, 4}, 8);
      const auto a = output_distribution(*network, x, *posterior.fit.curvature, posterior.priors);
      const auto b = output_distribution(*other, x, *loaded.fit.curvature, loaded.priors);
      CHECK(torch::equal(a.mean, b.mean));
      CHECK(torch::equal(a.covariance, b.covariance));
    }
  }
}

TEST_CASE("what is no posterior, damaged or of another version is refused", "[posterior]") {
  const TemporaryFolder folder;
  const auto path = folder / "p.h5";
  const auto network = small_network();
  const auto posterior = posterior_of(*network, Structure::kKron, 20);
  save_posterior(path, posterior);
  const auto good = read_file(path);
  int code = 0;
  const auto load = [&] { load_posterior(path, *network); };
  CHECK(error_of(load, code).empty());
  for (const size_t kept : {size_t{0}, size_t{100}, good.size() / 2, good.size() - 8000}) {
    write_atomically(path, good.substr(0, kept));
    CHECK_THAT(error_of(load, code), Contains("p.h5: damaged or no posterior"));
    CHECK(code == 4);
  }
  // One bit, anywhere: never another posterior.
  int wrong = 0;
  for (size_t at = 0; at < good.size(); at += good.size() / 97) {
    auto damaged = good;
    damaged[at] = static_cast<char>(damaged[at] ^ 4);
    write_atomically(path, damaged);
    const auto message = error_of(load, code);
    wrong += code != 0;
    if (!message.empty()) CHECK((code == 4 || code == 2));
    if (code == 0)  // a byte of no meaning
      CHECK(load_posterior(path, *network).evidence().log_evidence ==
            posterior.evidence().log_evidence);
  }
  CHECK(wrong > 40);

  write_atomically(path, good);
  auto record = read_run(path);
  const auto rewrite = [&](const std::function<void(RunRecord&)>& change) {
    auto other = record;
    change(other);
    write_run(path, other);
    return error_of(load, code);
  };
  CHECK_THAT(rewrite([](RunRecord& r) { r.attributes["version"] = int64_t{3}; }),
             Contains("version 3, expected 2: use a newer evariste"));
  CHECK(code == 2);
  CHECK_THAT(rewrite([](RunRecord& r) { r.attributes["version"] = int64_t{1}; }),
             Contains("version 1, expected 2: save it again"));
  CHECK(code == 2);
  CHECK_THAT(rewrite([](RunRecord& r) { r.attributes["format"] = std::string("evariste-run"); }),
             Contains("p.h5: no posterior"));
  CHECK(code == 2);
  CHECK_THAT(rewrite([](RunRecord& r) { r.attributes["temperature"] = 0.8; }),
             Contains("checksum"));
  CHECK(code == 4);
  CHECK_THAT(rewrite([](RunRecord& r) {
               std::get<std::vector<double>>(r.arrays.back().values)[0] += 1e-12;
             }),
             Contains("checksum"));
  CHECK(code == 4);
  CHECK(rewrite([](RunRecord&) {}).empty());
}
