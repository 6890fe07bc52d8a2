// Filters with anchors: published numbers of their basis, and what fresh ones are like.
#include "tests/catch.h"

#include <torch/csrc/autograd/autograd.h>

#include "nn/anchors.h"
#include "tests/laplace/brute_force.h"

using namespace evariste;

namespace {

const std::vector<std::vector<double>> kAnchors = {{0, 0}, {-.5, .5}, {.8, .2}, {-.9, -.7}};

Tensor four_anchors() {
  auto z = torch::empty({4, 2}, torch::kFloat64);
  for (int64_t j = 0; j < 4; ++j)
    for (int64_t d = 0; d < 2; ++d)
      z[j][d] = kAnchors[static_cast<size_t>(j)][static_cast<size_t>(d)];
  return z;
}

}  // namespace

TEST_CASE("the basis of four anchors on a 3 x 3 grid has its published numbers", "[nn][anchors]") {
  const AnchorBasis basis(3, 3, four_anchors(), torch::zeros({}, torch::kFloat64));
  const auto psi = basis(torch::empty({}, torch::kFloat64));
  const double row[] = {-0.21610622, -0.23618027, -0.76835067, 0.91844757, 0.99939728,
                        -0.32932489, 0.31633339,  -0.12342736, -0.71703998};
  for (int64_t t = 0; t < 9; ++t) CHECK(psi[0][t].item<double>() == Approx(row[t]).margin(1e-8));
  CHECK(psi.sum().item<double>() == Approx(7.316517531757281).epsilon(1e-12));
  CHECK(psi.norm().item<double>() == Approx(3.3634917969018705).epsilon(1e-12));
  CHECK(basis.power() == Approx(3.3634917969018705 * 3.3634917969018705).epsilon(1e-12));
  const auto u = ramp({2, 2, 4}, 0.2);
  const auto filter = u.matmul(psi);
  CHECK(filter.norm().item<double>() == Approx(4.881916197953222).epsilon(1e-12));
  CHECK(filter[0][0][0].item<double>() == Approx(0.81460982).epsilon(1e-7));
}

TEST_CASE("a convolution with anchors has its published numbers", "[nn][anchors]") {
  torch::NoGradGuard no_grad;
  ConvGeometry geometry;
  geometry.kernel = {3, 3};
  geometry.padding = {1, 1};
  geometry.circular = true;
  AnchorOptions options;
  options.ratio = 4.0 / 9;
  SparseConv2d layer(2, 3, geometry, options, false);
  layer.to(torch::kFloat64);
  layer.named_buffers()["anchors"].copy_(four_anchors());
  layer.named_parameters()["weight"].copy_(ramp({3, 2, 4}, 0.5));
  const auto x = ramp({2, 2, 4, 4}, 0.1);
  CHECK(layer.forward(x, nullptr).sum().item<double>() ==
        Approx(13.346236026943249).epsilon(1e-12));
  const auto gram = layer.weight_block().input_gram(x);
  CHECK(gram[0].trace().item<double>() / 2 == Approx(191.3688239127415).epsilon(1e-12));
}

TEST_CASE("the number of anchors is rounded to the even one of two", "[nn][anchors]") {
  using Case = std::tuple<int64_t, double, int64_t>;
  for (const auto& [side, ratio, expected] :
       {Case{3, 0.5, 4}, Case{3, 0.8, 7}, Case{1, 0.5, 1}, Case{2, 0.5, 2}, Case{3, 1, 9},
        Case{32, 0.5, 512}, Case{3, 0.01, 1}}) {
    CAPTURE(side, ratio);
    const auto z = AnchorBasis::anchors(side, side, ratio);
    CHECK(z.size(0) == expected);
    CHECK(z.abs().max().item<double>() <= 0.5 * static_cast<double>(side - 1));
    CHECK(torch::equal(z, AnchorBasis::anchors(side, side, ratio)));
  }
}

TEST_CASE("anchors on the grid leave filters as they are, but for the noise", "[nn][anchors]") {
  const AnchorBasis basis(2, 3, AnchorBasis::anchors(2, 3, 1),
                          torch::full({}, std::log(3.0), torch::kFloat64));
  const auto psi = basis(torch::empty({}, torch::kFloat64));
  CHECK((psi - torch::eye(6, torch::kFloat64)).abs().max().item<double>() < 2e-4);
}

TEST_CASE("the basis follows what it is made of, and its slope is that of differences",
          "[nn][anchors]") {
  const auto log_omega = torch::full({}, 0.3, torch::kFloat64).requires_grad_();
  const auto z = four_anchors();
  const AnchorBasis basis(3, 3, z, log_omega);
  const auto like = torch::empty({}, torch::kFloat64);
  const auto weights = ramp({4, 9}, 0.2);
  const auto value = [&](double at) {
    torch::NoGradGuard no_grad;
    log_omega.fill_(at);
    return (basis(like) * weights).sum().item<double>();
  };
  const double numeric = (value(0.3 + 1e-5) - value(0.3 - 1e-5)) / 2e-5;
  value(0.3);
  const auto sum = (basis(like) * weights).sum();
  CHECK(torch::autograd::grad({sum}, {log_omega})[0].item<double>() ==
        Approx(numeric).epsilon(1e-7));
  torch::NoGradGuard no_grad;
  const auto before = basis(like);
  CHECK(torch::equal(basis(like), before));
  z[0][0] = 0.4;
  CHECK_FALSE(torch::equal(basis(like), before));
}

TEST_CASE("omega is a parameter where it is learnt, else a buffer", "[nn][anchors]") {
  for (const bool learns : {false, true})
    for (const std::string type : {"sparse_conv', kernel = 3", "sparse_fc'"}) {
      const auto network = network_of(
          fmt::format("input = [2, 4, 4]\nlayer = [{{ type = '{}, out = 2, learn_omega = {} }}, "
                      "{{ type = 'flatten' }}, {{ type = 'linear', out = 2 }}]",
                      type, learns));
      size_t parameters = 0, buffers = 0;
      for (const auto& item : network->named_parameters())
        parameters += item.key().ends_with("log_omega");
      for (const auto& item : network->named_buffers())
        buffers += item.key().ends_with("log_omega");
      const size_t count = type == "sparse_fc'" ? 2 : 1;
      CHECK(parameters == (learns ? count : 0));
      CHECK(buffers == (learns ? 0 : count));
    }
}

TEST_CASE("fresh filters with anchors have the variance of others", "[nn][anchors]") {
  torch::NoGradGuard no_grad;
  const auto network = network_of(
      "input = [40, 8, 8]\nlayer = [{ type = 'sum', of = ["
      "{ type = 'sparse_conv', out = 200, kernel = 3, padding = 1, padding_mode = 'circular' }, "
      "{ type = 'sparse_fc', out = 200 }, "
      "{ type = 'conv', out = 200, kernel = 3, padding = 1, padding_mode = 'circular' }] }, "
      "{ type = 'global_avgpool' }]");
  initialise(*network, Stream(1), 1);
  const auto x = torch::randn({8, 40, 8, 8});
  Tape tape;
  network->forward(x, &tape);
  const auto& paths = tape.children[0].children;
  const double conv = paths[2].output.square().mean().item<double>();
  CHECK(paths[0].output.square().mean().item<double>() == Approx(conv).epsilon(0.1));
  // Two factors in turn, each of He's variance times the gain of its pathway.
  const double factored = paths[1].output.square().mean().item<double>();
  CHECK(factored == Approx(conv * conv).epsilon(0.3));
}
