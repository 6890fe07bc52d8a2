// Learned degrees of equivariance: what they average, what they cost, the evidence's two views.
#include "nn/degree.h"

#include <torch/csrc/autograd/autograd.h>

#include "core/error.h"
#include "groups/grid_action.h"
#include "groups/kernel_basis.h"
#include "nn/field_basis.h"
#include "nn/steerable_convolution.h"
#include "tests/catch.h"
#include "tests/laplace/brute_force.h"

using namespace evariste;

namespace {

Tensor random_theta(const GroupPtr& group, int band, double scale, uint64_t seed = 7) {
  return scale * random_tensor({Degree::coefficients(group, band)}, seed);
}

/// With the trivial coefficient, as GroupDensity takes it.
Vector with_trivial(const Tensor& theta) {
  Vector out = Vector::Zero(theta.numel() + 1);
  for (int64_t i = 0; i < theta.numel(); ++i) out[i + 1] = theta[i].item<double>();
  return out;
}

SteerableOptions of_degree(int band, int degree) {
  SteerableOptions options;
  options.padding = 1;
  options.isotypic = fmt::format("<{}", band);
  options.degree = degree;
  return options;
}

struct Between {
  const char* group;
  std::vector<std::string> in, out;
};
const Between kBetween[] = {{"C4", {"2 regular"}, {"1 regular", "1 (1)"}},
                            {"D4", {"1 (1,1)", "1 trivial"}, {"1 regular"}},
                            {"D2", {"1 regular"}, {"2 trivial", "1 (1,0)"}}};

std::shared_ptr<SteerableConv2d> conv_of(const Between& c, const SteerableOptions& options) {
  const auto group = make_group(c.group, 2);
  auto layer = std::make_shared<SteerableConv2d>(FieldType::parse(group, c.in),
                                                 FieldType::parse(group, c.out), options);
  layer->to(torch::kFloat64);
  torch::NoGradGuard no_grad;
  for (const auto& item : layer->named_parameters())
    item.value().copy_(random_tensor(item.value().sizes(), Stream(3).split(item.key()).key()));
  return layer;
}

void set_degree(SteerableConv2d& layer, const Tensor& theta) {
  torch::NoGradGuard no_grad;
  layer.named_parameters()["degree"].copy_(theta);
}

/// Logits -> theta of a finite group, from a value at each element.
Tensor theta_of(const GroupPtr& group, const std::vector<double>& logits) {
  const GroupDensity density(group, group->largest_band());
  Vector values(static_cast<Eigen::Index>(logits.size()));
  for (size_t i = 0; i < logits.size(); ++i) values[static_cast<Eigen::Index>(i)] = logits[i];
  const Vector theta =
      density.to_logits().transpose() * density.nodes().weights.cwiseProduct(values);
  return as_tensor(theta.tail(theta.size() - 1)).flatten();
}

/// (h.K)(x) = rho_out(h) K(h^-1 x) rho_in(h)^-1
Tensor turned(const Tensor& kernel, const SteerableConv2d& layer, const Element& h) {
  const auto index = grid_action(h, static_cast<int>(kernel.size(2)));
  REQUIRE(index);
  const auto moved = kernel.flatten(2).index_select(2, torch::tensor(*index));  // [O, I, P]
  return torch::einsum("oa,aip,bi->obp",
                       {as_tensor(layer.out().at(h)), moved, as_tensor(layer.in().at(h))})
      .view(kernel.sizes());
}

void check_close(const Tensor& found, const Tensor& expected, double tolerance) {
  REQUIRE(found.sizes() == expected.sizes());
  CHECK((found - expected).abs().max().item<double>() <
        tolerance * (1 + expected.abs().max().item<double>()));
}

}  // namespace

TEST_CASE("a degree's numbers are those of the density on its group", "[nn][degree]") {
  for (const char* name : {"C4", "C5", "D4", "SO(2)", "O(2)", "T", "O", "SO(3)"}) {
    CAPTURE(name);
    const auto group = make_group(name);
    const int band = 1, resolved = 2;
    const auto theta = random_theta(group, band, 0.5);
    const Degree degree(group, band, resolved, theta);
    const GroupDensity density(group, band, resolved);
    const auto at = density.at(with_trivial(theta));
    CHECK(degree.divergence().item<double>() == Approx(at.divergence).margin(1e-12));
    CHECK(degree.alignment().item<double>() == Approx(at.alignment).margin(1e-12));
    const auto irreps = group->irreps(resolved);
    const auto found = degree.expectations();
    REQUIRE(found.size() == irreps.size());
    for (size_t i = 0; i < irreps.size(); ++i)
      check_close(found[i], as_tensor(density.expectation(at, irreps[i])), 1e-12);
  }
}

TEST_CASE("KL between degrees: golden values, zero for equal ones, none moves the one before",
          "[nn][degree]") {
  const auto circle = make_group("SO(2)");
  const auto first = torch::tensor({.5, .3, -.2, .1}, torch::kFloat64).requires_grad_();
  const auto second = torch::tensor({1., 0., 0., 0.}, torch::kFloat64).requires_grad_();
  const Degree a(circle, 2, 2, first), b(circle, 2, 2, second);
  CHECK(a.divergence_from(b).item<double>() == Approx(.20473186).margin(1e-8));
  CHECK(b.divergence_from(a).item<double>() == Approx(.19807463).margin(1e-8));
  CHECK(a.divergence_from(a).item<double>() == Approx(0).margin(1e-14));
  const auto gradients =
      torch::autograd::grad({a.divergence_from(b)}, {first, second}, {}, true, false, true);
  CHECK(gradients[0].abs().max().item<double>() > 0.01);
  CHECK_FALSE(gradients[1].defined());
  // A density of another band is the same function on the group.
  const auto wide = torch::zeros({6}, torch::kFloat64);
  wide.narrow(0, 0, 4).copy_(second.detach());
  CHECK(a.divergence_from(Degree(circle, 3, 3, wide)).item<double>() ==
        Approx(.20473186).margin(1e-8));
  CHECK_THROWS_WITH(a.divergence_from(Degree(make_group("C4"), 1, 1, torch::zeros({2}))),
                    Contains("SO(2)") && Contains("C4"));
}

TEST_CASE("the penalty of degrees is the sum of alignments, the first KL and those between",
          "[nn][degree]") {
  const auto group = make_group("SO(2)");
  std::vector<Degree> degrees;
  std::vector<const Degree*> pointers;
  for (uint64_t i = 0; i < 3; ++i)
    degrees.emplace_back(group, 2, 2, random_theta(group, 2, 0.6, i));
  const Degree other(make_group("C4"), 1, 1, torch::tensor({.3, -.2}, torch::kFloat64));
  for (const auto& degree : degrees) pointers.push_back(&degree);
  pointers.push_back(&other);  // begins a chain of its own
  const auto value = [](const Tensor& t) { return t.item<double>(); };
  double expected = 0;
  for (const auto* degree : pointers) expected += 5 * value(degree->alignment());
  expected += 3.0 / 4 *
              (value(degrees[1].divergence_from(degrees[0])) +
               value(degrees[2].divergence_from(degrees[1])));
  expected += 2.0 / 4 * (value(degrees[0].divergence()) + value(other.divergence()));
  CHECK(value(DegreePenalty{5, 3, 2}(pointers)) == Approx(expected).epsilon(1e-12));
  CHECK(DegreePenalty{}.is_zero());
  CHECK_FALSE(DegreePenalty{0, 0, 1}.is_zero());
}

TEST_CASE("a scaled kernel is the mean of its turned copies under the density", "[nn][degree]") {
  torch::NoGradGuard no_grad;
  for (const auto& c : kBetween) {
    CAPTURE(c.group);
    const auto group = make_group(c.group);
    const auto layer = conv_of(c, of_degree(group->largest_band(), group->largest_band()));
    const auto density = layer->degree()->density().at(with_trivial(layer->degree()->theta()));
    const auto scaled = layer->plain().first;
    // Nearly all mass at the identity leaves the kernel as it is.
    std::vector<double> logits(static_cast<size_t>(group->order()), -60);
    logits[0] = 0;
    set_degree(*layer, theta_of(group, logits));
    const auto kernel = layer->plain().first;
    auto mean = torch::zeros_like(kernel);
    for (size_t h = 0; h < group->elements().size(); ++h)
      mean += density.density[static_cast<Eigen::Index>(h)] / static_cast<double>(group->order()) *
              turned(kernel, *layer, group->elements()[h]);
    check_close(scaled, mean, 1e-12);
  }
}

TEST_CASE("a uniform degree is strict equivariance, one on a subgroup the subgroup's",
          "[nn][degree]") {
  torch::NoGradGuard no_grad;
  for (const auto& c : kBetween) {
    CAPTURE(c.group);
    const auto group = make_group(c.group);
    const auto layer = conv_of(c, of_degree(group->largest_band(), group->largest_band()));
    set_degree(*layer, torch::zeros_like(layer->degree()->theta()));
    for (const auto& h : group->elements())
      check_close(turned(layer->plain().first, *layer, h), layer->plain().first, 1e-13);
    for (const auto& subgroup : subgroups(*group)) {
      CAPTURE(subgroup->name());
      std::vector<double> logits;
      for (const auto& h : group->elements()) logits.push_back(subgroup->contains(h) ? 0 : -60);
      set_degree(*layer, theta_of(group, logits));
      const auto kernel = layer->plain().first;
      for (const auto& h : group->elements()) {
        const auto error = (turned(kernel, *layer, h) - kernel).abs().max().item<double>();
        if (subgroup->contains(h))
          CHECK(error < 1e-12);
        else
          CHECK(error > 1e-3);
      }
    }
  }
}

TEST_CASE("a band has every kernel of its irreps once", "[nn][degree]") {
  // Reference codes enter a restricted harmonic several times (spec 20.1): B(3) d_in d_out it is.
  for (const auto& [name, in, out, band, count] : {std::tuple{"SO(2)", "1 (1)", "1 (1)", 4, 24},
                                                   {"SO(2)", "1 (1)", "1 (1)", 2, 20},
                                                   {"O(2)", "1 (1,1)", "1 (1,1)", 4, 24},
                                                   {"O(2)", "1 (1,1)", "1 (1,1)", 2, 20},
                                                   {"D4", "1 (1,1)", "1 (1,1)", 2, 24},
                                                   {"C4", "1 regular", "1 regular", 2, 96}}) {
    CAPTURE(name, band);
    const auto group = make_group(name);
    SteerableOptions options;
    options.isotypic = fmt::format("<{}", band);
    const SteerableConv2d layer(FieldType::parse(group, {in}), FieldType::parse(group, {out}),
                                options);
    CHECK(layer.named_parameters()["weight"].numel() == count);
    CHECK_FALSE(layer.degree());
  }
}

TEST_CASE("a peak's logarithm is the height at the identity and less elsewhere", "[nn][degree]") {
  for (const auto& [name, dimension] :
       {std::pair("C4", 2), {"D4", 2}, {"SO(2)", 2}, {"O(2)", 2}, {"SO(3)", 3}}) {
    CAPTURE(name);
    const auto group = make_group(name, dimension);
    const auto theta = Degree::peaked(group, 2, 1.5);
    const Degree degree(group, 2, 2, theta);
    const double at = degree.density().at_identity().dot(with_trivial(theta));
    CHECK(at == Approx(1.5));
    CHECK(degree.alignment().item<double>() == Approx(0).margin(1e-9));
    CHECK(degree.divergence().item<double>() > 0.02);
    CHECK(Degree::peaked(group, 2, 0).abs().max().item<double>() == 0);
    // No other theta of the same l(identity) is shorter (Cauchy-Schwarz): it is parallel to what
    // l(identity) weighs it by.
    const Vector weighs = degree.density().at_identity().tail(theta.numel());
    CHECK(at == Approx(weighs.norm() * theta.norm().item<double>()));
  }
}

TEST_CASE("fresh weights of a degree give the variance of strict equivariance", "[nn][degree]") {
  const auto group = make_group("C4");
  const auto in = FieldType::parse(group, {"4 regular"}),
             out = FieldType::parse(group, {"64 regular"});
  SteerableOptions strict;
  strict.padding = 1;
  const auto x = random_tensor({8, 16, 9, 9}, 1);
  const auto power_of = [&](const SteerableOptions& options) {
    SteerableConv2d layer(in, out, options);
    layer.to(torch::kFloat64);
    torch::NoGradGuard no_grad;
    auto weight = layer.named_parameters()["weight"];
    weight.copy_(random_tensor(weight.sizes(), 2) / std::sqrt(static_cast<double>(weight.size(1))));
    return layer.forward(x, nullptr).square().mean().item<double>();
  };
  CHECK(power_of(of_degree(2, 2)) == Approx(power_of(strict)).epsilon(0.15));
  auto beside = of_degree(2, 2);
  beside.degree_start = GENERATE(0.5, 2.0, 20.0);
  CHECK(power_of(beside) == Approx(power_of(strict)).epsilon(0.15));
}

TEST_CASE("the two views of a degree: scaled features and a prior covariance have one evidence",
          "[nn][degree]") {
  const std::string layers =
      "{ type = 'tanh' }, { type = 'flatten' }, { type = 'linear', out = 3 }]";
  const auto text = [&](const std::string& key) {
    return "input = [2, 3, 3]\nlayer = [{ type = 'steerable_conv', group = 'D2', "
           "out = '1 regular', " +
           key + ", bias = false }, " + layers;
  };
  const auto scaled = network_of(text("isotypic = '<1', degree = 1"));
  const auto plain = network_of(text("isotypic = '<1'"));
  scaled->to(torch::kFloat64);
  plain->to(torch::kFloat64);
  torch::NoGradGuard no_grad;
  const auto parameters = scaled->named_parameters();
  for (const auto& item : parameters)
    item.value().copy_(0.7 * random_tensor(item.value().sizes(), 3 + item.value().numel()));
  // w' = L w of every field: the weights of the plain layer with the same kernel.
  const auto& conv = dynamic_cast<const SteerableConv2d&>(*scaled->layers()[0]);
  const auto copies = conv.named_buffers()["basis_copies"];
  std::vector<Tensor> blocks;
  for (int64_t field = 0; field < 2; ++field) {
    const auto expectations = conv.degree()->expectations();
    for (size_t i = 0; i < expectations.size(); ++i)
      for (int64_t c = 0; c < copies[static_cast<int64_t>(i)].item<int64_t>(); ++c)
        blocks.push_back(expectations[i]);
  }
  const auto by = torch::block_diag(blocks);
  for (const auto& item : plain->named_parameters())
    item.value().copy_(item.key() == "0.weight" ? parameters["0.weight"].matmul(by.t())
                                                : parameters[item.key()]);
  const auto x = random_tensor({5, 2, 3, 3}, 4);
  check_close(plain->forward(x), scaled->forward(x), 1e-13);

  const Softmax likelihood;
  auto options = options_of(Structure::kFull);
  options.only = {"0.weight"};
  const double delta = 0.8;
  const Samples data{x, torch::arange(5) % 3};
  const auto fit = fit_curvature(*scaled, likelihood, data, options);
  const auto found = evaluate_evidence(fit, likelihood, layerwise_priors(*fit.curvature, delta));
  // The same for the plain layer, weights N(0, L L^T/delta): dense.
  named_blocks(*plain);
  Blocks block;
  for (const auto* each : named_blocks(*plain))
    if (each->name == "0.weight") block.push_back(each);
  torch::AutoGradMode enabled(true);
  const auto hessian = dense_ggn(*plain, likelihood, x, block);
  const auto root = by / std::sqrt(delta);  // one field goes out
  const auto inside = root.t().matmul(hessian).matmul(root);
  const auto log_det =
      torch::logdet(torch::eye(inside.size(0), inside.options()) + inside).item<double>();
  const auto w = plain->named_parameters()["0.weight"].detach()[0];
  const auto scatter = torch::linalg_solve(root, w.unsqueeze(1)).square().sum().item<double>();
  const auto expected = fit.log_likelihood - 0.5 * log_det - 0.5 * scatter;
  CHECK(found.log_evidence == Approx(expected).epsilon(1e-10));
}

TEST_CASE("a degree of one irrep and bands that are no numbers are refused", "[nn][degree]") {
  const auto of = [](const std::string& keys) {
    return network_of(
        "input = [1, 5, 5]\nlayer = [{ type = 'steerable_conv', group = 'C4', out = "
        "'1 regular', " +
        keys + " }]");
  };
  CHECK_THROWS_WITH(of("isotypic = '(1)', degree = 1"),
                    Contains("layer[0]") && Contains("expected isotypic \"<1\""));
  CHECK_THROWS_WITH(of("degree = 0"), Contains("layer[0]") && Contains("degree"));
  for (const auto* words : {"<", "<x", "<-1", "<2x"})
    CHECK_THROWS_WITH(of(fmt::format("isotypic = '{}'", words)),
                      Contains("layer[0]") && Contains(words));
  const auto group = make_group("C4");
  CHECK_THROWS_WITH(Degree(group, 2, 2, torch::zeros({2})), Contains("expected 3, found 2"));
}
