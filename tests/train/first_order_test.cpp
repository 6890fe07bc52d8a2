// Steps of SGD and Adam against autograd's.
#include "tests/catch.h"

#include <torch/csrc/autograd/autograd.h>

#include "tests/train/small_training.h"

using namespace evariste;

namespace {

/// The weights after one epoch of one step over all images, as torch's autograd takes it. The rate
/// of the cosine schedule at its first step is the whole one.
std::vector<Tensor> autograd_step(SmallTraining& small, bool adam) {
  const auto trainer = small.make();
  auto& network = trainer->network();
  const auto parameters = network.parameters();
  for (const auto& p : parameters) Tensor(p).requires_grad_();
  const auto f = network.forward(small.data.x);
  const auto loss = -Softmax().log_density(f, small.data.y).mean();
  const auto gradients = torch::autograd::grad({loss}, parameters);
  const auto precisions = log_precisions(*trainer);
  const auto blocks = named_blocks(network);
  std::vector<Tensor> out;
  torch::NoGradGuard no_grad;
  for (size_t m = 0; m < blocks.size(); ++m) {
    const double pull = std::exp(precisions[m]) / static_cast<double>(small.data.count());
    const auto weight = blocks[m]->weight().detach();
    size_t i = 0;
    while (!parameters[i].is_same(blocks[m]->weight())) ++i;
    if (adam) {  // first step: the moments, debiased, are the gradient and its square
      const auto g = gradients[i] + pull * weight;
      out.push_back(weight - small.train.lr * g / (g.abs() + 1e-8));
    } else {
      out.push_back((weight - small.train.lr * gradients[i]) / (1 + small.train.lr * 10 * pull));
    }
  }
  return out;
}

}  // namespace

TEST_CASE("a step of SGD or Adam takes every layer's gradient at the weights before it",
          "[train]") {
  for (const std::string optimiser : {"sgd", "adam"}) {
    SmallTraining small;
    small.train.optimiser = optimiser;
    small.train.batch = 60;
    small.train.lr = 0.3;
    small.train.epochs = 2;
    small.train.burn_in = 2;  // no refresh
    const auto expected = autograd_step(small, optimiser == "adam");
    const auto trainer = small.make();
    trainer->run_epoch();
    const auto blocks = named_blocks(trainer->network());
    for (size_t m = 0; m < blocks.size(); ++m) {
      CAPTURE(optimiser, blocks[m]->name);
      CHECK(torch::allclose(blocks[m]->weight(), expected[m], 1e-9, 1e-11));
    }
  }
}

TEST_CASE("the burn-in takes the same steps", "[train]") {
  SmallTraining small;
  small.train.batch = 60;
  small.train.burn_in = 1;
  small.train.burn_in_lr = small.train.lr = 0.3;
  small.train.burn_in_decay = 10;  // the whole prior, as sgd has it
  const auto expected = autograd_step(small, false);
  const auto trainer = small.make();
  trainer->run_epoch();
  const auto blocks = named_blocks(trainer->network());
  for (size_t m = 0; m < blocks.size(); ++m) {
    CAPTURE(blocks[m]->name);
    CHECK(torch::allclose(blocks[m]->weight(), expected[m], 1e-9, 1e-11));
  }
}
