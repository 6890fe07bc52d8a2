// No tensor grows with samples times parameters: every allocation of torch is watched.
#include "tests/catch.h"

#include <c10/core/CPUAllocator.h>

#include "laplace/evidence.h"
#include "laplace/hyper_gradient.h"
#include "laplace/predictive.h"
#include "laplace/priors/isotropic_gaussian.h"
#include "tests/laplace/brute_force.h"

using namespace evariste;

namespace {

/// torch's allocator, which remembers the largest request while it lives.
class Watched : public c10::Allocator {
 public:
  Watched() : inner_(c10::GetCPUAllocator()) { c10::SetCPUAllocator(this, 100); }
  ~Watched() override { c10::SetCPUAllocator(inner_, 100); }
  Watched(const Watched&) = delete;
  Watched& operator=(const Watched&) = delete;

  c10::DataPtr allocate(size_t bytes) override {
    largest_ = std::max(largest_, bytes);
    return inner_->allocate(bytes);
  }
  c10::DeleterFnPtr raw_deleter() const override { return inner_->raw_deleter(); }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    inner_->copy_data(to, from, bytes);
  }
  double largest() const { return static_cast<double>(largest_); }

 private:
  c10::Allocator* inner_;
  size_t largest_ = 0;
};

/// Everything the engine does with one fit: bytes of the largest tensor.
double largest_tensor(const std::shared_ptr<Network>& network, Structure structure, int64_t count) {
  auto shape = network->input();
  shape.insert(shape.begin(), count);
  const Samples data{random_tensor(shape, 1), random_labels(count, network->outputs(), 2)};
  auto options = options_of(structure);
  options.batch = 16;
  const Softmax likelihood;
  const Watched watched;
  const auto fit = fit_curvature(*network, likelihood, data, options);
  Priors priors;
  for (size_t m = 0; m < fit.curvature->blocks().size(); ++m)
    priors.emplace_back(IsotropicGaussian(1.0));
  evaluate_evidence(fit, likelihood, priors);
  check_evidence(*network, likelihood, data, fit, priors, 1.0, Stream(0), options.batch);
  output_distribution(*network, data.x.narrow(0, 0, 20), *fit.curvature, priors, options.batch);
  if (structure == Structure::kKron) {
    auto batch = data;
    batch.x = data.x.clone().requires_grad_();
    evidence_surrogate(*network, likelihood, batch, fit,
                       log_det_cotangents(fit, likelihood, priors), options)
        .backward();
  }
  return watched.largest();
}

}  // namespace

TEST_CASE("no tensor grows with samples times classes times parameters", "[allocation]") {
  const auto mlp = network_of(
      "input = [40]\nlayer = [{ type = 'linear', out = 50 }, { type = 'relu' }, "
      "{ type = 'linear', out = 60 }]");
  const auto cnn = network_of(
      "input = [3, 12, 12]\nlayer = [{ type = 'conv', out = 16, kernel = 3 }, { type = 'relu' }, "
      "{ type = 'conv', out = 16, kernel = 3, stride = 2 }, { type = 'flatten' }, "
      "{ type = 'linear', out = 30 }]");
  for (const auto& network : {mlp, cnn}) {
    randomise(*network, 1);
    double parameters = 0;
    for (const auto* block : named_blocks(*network))
      parameters += static_cast<double>(block->parameters());
    for (const auto structure : {Structure::kKron, Structure::kEkfac, Structure::kDiag}) {
      const double few = largest_tensor(network, structure, 200);
      const double many = largest_tensor(network, structure, 400);
      const double jacobians = 8.0 * 400 * static_cast<double>(network->outputs()) * parameters;
      CAPTURE(parameters, structure, few, many, jacobians);
      CHECK(many < 0.02 * jacobians);
      double inputs = 8.0 * 400;  // the data themselves do grow
      for (const auto size : network->input()) inputs *= static_cast<double>(size);
      CHECK(many <= std::max(few, inputs));
    }
  }
}
