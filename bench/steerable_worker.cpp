// Our side of the comparison of steerable networks (bench/steerable.py): one network of random
// weights, stages on request (bench/worker.h).
#include <torch/utils.h>

#include <CLI/CLI.hpp>

#include "bench/worker.h"
#include "core/memory.h"
#include "laplace/likelihood.h"
#include "nn/network.h"
#include "nn/steerable_convolution.h"

using namespace evariste;
using Json = nlohmann::json;

namespace {

class Case {
 public:
  Case(const std::string& file, int64_t batch) : file_(file), network_(load_network(file)) {
    initialise(*network_, Stream(1));
    auto shape = network_->input();
    shape.insert(shape.begin(), batch);
    x_ = torch::randn(shape);
    y_ = torch::randint(network_->outputs(), {batch});
  }

  /// The network of a file, kernels and all; nothing is kept from the call before but products of
  /// irreps.
  Json construct() const {
    const auto fresh = load_network(file_);
    int64_t parameters = 0;
    for (const auto& weight : fresh->parameters()) parameters += weight.numel();
    return {{"parameters", parameters}};
  }

  /// Forward, backward, SGD step.
  Json train() {
    torch::NoGradGuard no_grad;
    Tape tape;
    const auto f = network_->forward(x_, &tape);
    std::map<const Block*, Tensor> gradients;
    network_->backward(
        likelihood_.score(f, y_).unsqueeze(0) / x_.size(0), tape,
        [&](const Block& block, const Tensor& x, const Tensor& g) {
          gradients[&block] = block.from_matrix(block.gradient(x, g[0]));
        },
        false);
    for (const auto& [block, gradient] : gradients) Tensor(block->weight()).add_(gradient, 0.0);
    return Json::object();
  }

  Json eval() const {
    torch::NoGradGuard no_grad;
    return {{"value", network_->forward(x_).sum().item<double>()}};
  }

  /// The kernels of all steerable convolutions from their weights, as every step makes them.
  Json expand() const {
    torch::NoGradGuard no_grad;
    for (const auto& module : network_->modules())
      if (const auto* layer = dynamic_cast<const SteerableConv2d*>(module.get())) layer->plain();
    return Json::object();
  }

 private:
  std::string file_;
  std::shared_ptr<Network> network_;
  Softmax likelihood_;
  Tensor x_, y_;
};

}  // namespace

int main(int argc, char** argv) {
  keep_freed_memory();  // as our programs do
  std::string network, save;
  int64_t batch = 0;
  int threads = 1;
  CLI::App app{"Runs one steerable network of the comparison; bench/steerable.py drives it"};
  app.add_option("--network", network)->required();
  app.add_option("--batch", batch)->required();
  app.add_option("--threads", threads)->required();
  app.add_option("--save", save, "write the fresh network's weights and end");
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(threads);
  at::globalContext().setFlushDenormal(true);
  if (!save.empty()) {
    const auto fresh = load_network(network);
    initialise(*fresh, Stream(1));
    save_weights(*fresh, save);
    return 0;
  }
  Case one(network, batch);
  serve({{"construct", [&] { return one.construct(); }},
         {"train", [&] { return one.train(); }},
         {"eval", [&] { return one.eval(); }},
         {"expand", [&] { return one.expand(); }}});
  return 0;
}
