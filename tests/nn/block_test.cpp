// Blocks: what a block may override equals what the base class derives from phi.
#include "tests/catch.h"

#include "nn/linear.h"
#include "tests/nn/layer_examples.h"

using namespace evariste;

namespace {

struct Visited {
  const Block* block;
  Tensor x, g;  // [n, ...], [R, n, ...]
};

/// Every block of a network with its input and a random cotangent.
std::vector<Visited> visit_blocks(Network& network, const Tensor& x) {
  torch::NoGradGuard no_grad;
  named_blocks(network);
  Tape tape;
  const auto y = network.forward(x, &tape);
  std::vector<Visited> visits;
  network.backward(
      random_tensor({2, x.size(0), y.size(1)}, 9), tape,
      [&](const Block& block, const Tensor& input, const Tensor& g) {
        visits.push_back({&block, input, g});
      },
      true);
  return visits;
}

void check_close(const Tensor& found, const Tensor& expected) {
  REQUIRE(found.sizes() == expected.sizes());
  CHECK(torch::allclose(found, expected, 1e-11, 1e-11));
}

}  // namespace

TEST_CASE("fast paths of every block equal those derived from phi", "[nn]") {
  for (const auto& example : layer_examples()) {
    const auto network = example.build();
    for (const auto& [block, x, g] : visit_blocks(*network, example.inputs(4))) {
      CAPTURE(example.type, example.title, block->name);
      torch::NoGradGuard no_grad;
      check_close(block->gradient(x, g[0]), block->Block::gradient(x, g[0]));
      check_close(block->input_gram(x), block->Block::input_gram(x));
      const auto order = block->gathered_order();
      const auto phi = block->phi(x);
      CHECK(torch::equal(block->gathered(x), order.defined() ? phi.index_select(3, order) : phi));
      if (!block->is_constant()) {
        const auto on_features = random_tensor(phi.sizes(), 13);
        check_close(block->scattered(on_features, x), block->Block::scattered(on_features, x));
        const auto any = random_tensor({phi.size(0), phi.size(3), phi.size(3)}, 14);
        const auto on_gram = any + any.transpose(1, 2);
        check_close(block->input_gram_backward(on_gram, x)(x),
                    block->Block::input_gram_backward(on_gram, x)(x));
      }
      const auto matrix = random_tensor(block->value().sizes(), 12);
      if (block->is_constant()) {  // phi = 1: the weights themselves, at all positions
        const auto y = block->to_positions(torch::zeros_like(g[0]) + block->apply(matrix, x));
        check_close(y, matrix.view({1, 1, 1, -1}).expand_as(y));
        CHECK(block->backward_data(fold(g), x).count_nonzero().item<int64_t>() == 0);
      } else {
        check_close(block->apply(matrix, x), block->Block::apply(matrix, x));
        check_close(block->backward_data(fold(g), x), block->Block::backward_data(fold(g), x));
      }
    }
  }
}

TEST_CASE("to_positions and to_matrix are undone by their inverses", "[nn]") {
  torch::NoGradGuard no_grad;
  for (const auto& example : layer_examples()) {
    const auto network = example.build();
    for (const auto& [block, x, g] : visit_blocks(*network, example.inputs(3))) {
      CAPTURE(example.type, example.title, block->name);
      check_close(block->from_matrix(block->to_matrix(block->weight())), block->weight());
      const auto positions = block->to_positions(g[1]);
      const auto back = block->from_positions(positions, x).reshape(g[1].sizes());
      check_close(block->to_positions(back), positions);
      if (block->is_everywhere) check_close(back, g[1]);
    }
  }
}

TEST_CASE("a joint block is its weight and bias together", "[nn]") {
  torch::NoGradGuard no_grad;
  for (const auto& example : layer_examples()) {
    const auto network = example.build();
    for (const auto& [block, x, g] : visit_blocks(*network, example.inputs(3))) {
      if (!block->bias || !block->bias->is_everywhere) continue;
      const auto groups = block->value().size(0) * block->value().size(1);
      if (block->bias->parameters() != groups)
        continue;  // shared over groups: refused, see laplace
      CAPTURE(example.type, example.title, block->name);
      const JointBlock joint(*block, *block->bias);
      const auto inputs = block->value().size(2);
      CHECK(joint.parameters() == block->parameters() + block->bias->parameters());
      const auto y = block->apply(block->value(), x) + block->bias->apply(block->bias->value(), x);
      check_close(joint.apply(joint.value(), x), y);
      check_close(joint.backward_data(fold(g), x), block->backward_data(fold(g), x));
      const auto both = joint.gradient(x, g[0]);
      check_close(both.narrow(2, 0, inputs), block->gradient(x, g[0]));
      check_close(both.select(2, inputs).flatten(), block->bias->gradient(x, g[0]).flatten());
    }
  }
}

TEST_CASE("a dense block trains in any orthonormal bases", "[nn]") {
  const auto network = network_of(
      "input = [2, 2, 3]\nlayer = [{ type = 'fc', out = 4 }, { type = 'tanh' }, "
      "{ type = 'flatten' }, { type = 'linear', out = 3 }]");
  randomise(*network, 1);
  const auto x = random_tensor({5, 2, 2, 3}, 2);
  auto* block = named_blocks(*network)[0];
  const auto plain = visit_blocks(*network, x)[2];
  REQUIRE(plain.block == block);
  torch::NoGradGuard no_grad;
  const auto y = network->forward(x);
  const auto gradient = block->gradient(x, plain.g[0]);
  const auto cotangent = block->backward_data(fold(plain.g), x);

  const auto basis_b = std::get<0>(at::linalg_qr(random_tensor({24, 24}, 3)));
  const auto basis_a = std::get<0>(at::linalg_qr(random_tensor({12, 12}, 4)));
  const auto w = block->weight().clone();
  REQUIRE(block->set_bases(basis_b, basis_a));
  Tensor(block->weight()).copy_(basis_b.t().mm(w).mm(basis_a));  // W = U_B W' U_A^T
  check_close(network->forward(x), y);
  check_close(block->backward_data(fold(plain.g), x), cotangent);
  check_close(block->gradient(x, plain.g[0]), basis_b.t().mm(gradient[0]).mm(basis_a).unsqueeze(0));

  block->set_bases(Tensor(), Tensor());
  Tensor(block->weight()).copy_(w);
  check_close(network->forward(x), y);
}

TEST_CASE("blocks without a basis mode say so", "[nn]") {
  const auto network = network_of("input = [3]\nlayer = [{ type = 'linear', out = 2 }]");
  const auto eye = torch::eye(3);
  CHECK_FALSE(named_blocks(*network)[1]->set_bases(eye, eye));
}
