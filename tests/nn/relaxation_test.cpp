// Relaxed networks: the same function, with blocks at 0 for all that equivariance left out.
#include "nn/relaxation.h"

#include "groups/group.h"
#include "tests/catch.h"
#include "tests/nn/layer_examples.h"

using namespace evariste;

namespace {

std::shared_ptr<Network> strict_network(const std::string& group) {
  auto network = network_of(fmt::format(
      "input = [2, 6, 6]\nlayer = [{{ type = 'steerable_conv', group = '{}', out = '2 regular', "
      "padding = 1 }}, {{ type = 'tanh' }}, {{ type = 'residual', layer = [{{ type = "
      "'steerable_conv', out = '2 regular', padding = 1 }}, {{ type = 'tanh' }}] }}, {{ type = "
      "'sum', of = [{{ type = 'steerable_conv', out = '3 trivial', kernel = 1 }}] }}, {{ type = "
      "'polyphase' }}, {{ type = "
      "'global_avgpool' }}, {{ type = 'linear', out = 3 }}]",
      group));
  randomise(*network, 2);
  return network;
}

}  // namespace

TEST_CASE("a relaxed network is the same function with blocks at 0", "[nn][relaxation]") {
  torch::NoGradGuard no_grad;
  for (const char* name : {"C4", "D2"}) {
    CAPTURE(name);
    const auto network = strict_network(name);
    const auto x = random_tensor({4, 2, 6, 6}, 5);
    const auto before = network->forward(x);
    const auto blocks = relax(*network, 0);
    CHECK(torch::equal(network->forward(x), before));
    const auto group = make_group(name);
    std::map<std::string, int> irreps;
    for (auto* block : named_blocks(*network)) {
      const auto found = blocks.find(block->name);
      if (found == blocks.end()) continue;
      CAPTURE(block->name);
      const auto& [layer, irrep, is_kept] = found->second;
      CHECK(block->name.starts_with(layer + "."));
      CHECK(is_kept == (irrep == group->irreps(0)[0].name));
      CHECK((block->weight().abs().sum().item<double>() > 0) == is_kept);
      ++irreps[layer];
    }
    const auto all = static_cast<int>(group->irreps(group->largest_band()).size());
    CHECK(irreps == std::map<std::string, int>{{"0", all}, {"2.0", all}, {"3.0", all}});
    CHECK(relax(*network, 0).empty());  // what lies in a sum stays
  }
}

TEST_CASE("a relaxed layer could be any convolution of its rings", "[nn][relaxation]") {
  torch::NoGradGuard no_grad;
  const auto network = network_of(
      "input = [1, 4, 4]\nlayer = [{ type = 'steerable_conv', group = 'C4', out = '1 regular' }, { "
      "type = 'flatten' }, { type = 'linear', out = 2 }]");
  int64_t weights = 0;
  for (const auto& [name, block] : relax(*network, 0))
    weights += network->named_parameters()[name].numel();
  CHECK(weights == 4 * 6);  // four channels, six kernels of size 3
}

TEST_CASE("of an infinite group irreps up to the band are tested", "[nn][relaxation]") {
  for (const auto& [band, expected] : std::vector<std::pair<int, size_t>>{{0, 1}, {1, 2}, {2, 3}}) {
    const auto network = network_of(
        "input = [1, 5, 5, 5]\nlayer = [{ type = 'steerable_conv3d', group = 'SO(3)', out = '2 "
        "trivial' }, { type = 'flatten' }, { type = 'linear', out = 2 }]");
    CHECK(relax(*network, band).size() == expected);
  }
}
