// The equivariance error: zero where a network commutes, large where it does not, near its floor
// between.
#include "nn/equivariance.h"

#include <cmath>

#include "core/error.h"
#include "tests/catch.h"
#include "tests/nn/layer_examples.h"

using namespace evariste;

namespace {

/// Smooth blobs within the disc that fits into the image: [n, 1, side, side].
Tensor blobs(int64_t n, int64_t side) {
  const auto place = torch::arange(side, torch::kFloat64) - 0.5 * static_cast<double>(side - 1);
  const auto centres = random_tensor({n, 3, 2}, 5) * (0.12 * static_cast<double>(side));
  auto out = torch::zeros({n, 1, side, side}, torch::kFloat64);
  const double width = 0.1 * static_cast<double>(side);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t b = 0; b < 3; ++b)
      out[i][0] += (-((place - centres[i][b][0]).square().unsqueeze(0) +
                      (place - centres[i][b][1]).square().unsqueeze(1)) /
                    (2 * width * width))
                       .exp();
  return out;
}

EquivarianceErrors errors_of(const std::string& layers, const char* group, int64_t side = 9,
                             int64_t rotations = 8) {
  const auto text = fmt::format("input = [1, {0}, {0}]\nlayer = [{1}]", side, layers);
  const auto network = network_of(text);
  randomise(*network, 3);
  const auto acting = make_group(group);
  return equivariance_errors(*network, layer_fields(toml::parse(text), "net.toml"),
                             FieldType::trivial(acting, 1), blobs(3, side),
                             elements_to_test(*acting, rotations));
}

double largest(const Tensor& t) { return t.max().item<double>(); }

const std::string kHead =
    "{ type = 'field_pool' }, { type = 'global_avgpool' }, { type = 'linear', out = 3 }";

}  // namespace

TEST_CASE("a steerable network has no error at the elements of its group", "[nn][equivariance]") {
  for (const char* group : {"C4", "D4", "C2"}) {
    CAPTURE(group);
    const auto found = errors_of(
        fmt::format(
            "{{ type = 'steerable_conv', group = '{}', out = ['2 regular', '1 trivial'], "
            "padding = 1 }}, {{ type = 'relu' }}, {{ type = 'steerable_conv', out = '2 regular' "
            "}}, {{ type = 'relu' }}, ",
            group) +
            kHead,
        group);
    CHECK(found.layers.size() == 7);
    CHECK(static_cast<int64_t>(found.elements.size()) == make_group(group)->order() - 1);
    CHECK(largest(found.error) < 1e-12);
    CHECK(largest(found.floor) == 0);
  }
}

TEST_CASE("a plain convolution does not commute, and pathways out of equivariance do not",
          "[nn][equivariance]") {
  const auto plain = errors_of(
      "{ type = 'conv', out = 3, kernel = 3, padding = 1 }, { type = 'relu' }, "
      "{ type = 'global_avgpool' }, { type = 'linear', out = 3 }",
      "C4");
  CHECK(plain.error[0].min().item<double>() > 0.1);
  CHECK(plain.error.min().item<double>() > 1e-3);
  const auto relaxed = errors_of(
      "{ type = 'sum', of = [{ type = 'steerable_conv', group = 'C4', out = '2 regular' }, { type "
      "= "
      "'steerable_conv', group = 'C4', out = '2 regular', isotypic = '(1)' }] }, " +
          kHead,
      "C4");
  CHECK(relaxed.error[0].min().item<double>() > 0.1);
}

TEST_CASE("between the elements of a grid the error of a steerable network is near its floor",
          "[nn][equivariance]") {
  const std::string layers =
      "{ type = 'steerable_conv', group = 'SO(2)', out = ['1 <2', '1 trivial'], kernel = 7, "
      "padding = "
      "3, bias = false }, ";
  const auto coarse = errors_of(layers +
                                    "{ type = 'steerable_conv', out = '2 trivial', kernel = 5, "
                                    "padding = 2 }, { type = 'global_avgpool' }",
                                "SO(2)", 15, 12),
             fine = errors_of(layers +
                                  "{ type = 'steerable_conv', out = '2 trivial', kernel = 5, "
                                  "padding = 2 }, { type = 'global_avgpool' }",
                              "SO(2)", 41, 12);
  CHECK(fine.error.size(1) == 11);
  CHECK(largest(fine.error[0]) < 0.08);
  CHECK(largest(fine.error[0]) < largest(coarse.error[0]));
  CHECK(largest(fine.floor) < largest(coarse.floor));
  for (const int64_t quarter : {2, 5, 8}) CHECK(fine.error[0][quarter].item<double>() < 1e-12);
  const auto plain =
      errors_of("{ type = 'conv', out = 3, kernel = 7, padding = 3 }, { type = 'global_avgpool' }",
                "SO(2)", 41, 12);
  CHECK(largest(plain.error[0]) > 3 * largest(fine.error[0]));
}

TEST_CASE("elements that a field does not know have no error there", "[nn][equivariance]") {
  const auto found =
      errors_of("{ type = 'steerable_conv', group = 'C4', out = '2 regular' }, " + kHead, "C8");
  CHECK(std::isnan(found.error[0][0].item<double>()));  // an eighth of a turn
  CHECK(found.error[0][1].item<double>() < 1e-12);      // a quarter
  CHECK(found.error[3][0].item<double>() > 0);          // outputs should be invariant
}

namespace {

/// A smooth lump off the centre, within the ball that fits into the volume: [1, 1, side, ..].
Tensor lump(int64_t side) {
  const auto place = torch::arange(side, torch::kFloat64) - 0.5 * static_cast<double>(side - 1);
  const double width = 0.16 * static_cast<double>(side);
  const auto along = [&](double centre) { return (place - centre * width).square(); };
  const auto square = along(0.5).view({-1, 1, 1}) + along(-0.7).view({1, -1, 1}) + along(0.4);
  return (-square / (2 * width * width)).exp().view({1, 1, side, side, side});
}

EquivarianceErrors errors_in_space(const std::string& layers, const char* group, int64_t side) {
  const auto text = fmt::format("input = [1, {0}, {0}, {0}]\nlayer = [{1}]", side, layers);
  const auto network = network_of(text);
  randomise(*network, 3);
  const auto acting = make_group(group, 3);
  return equivariance_errors(*network, layer_fields(toml::parse(text), "net.toml"),
                             FieldType::trivial(acting, 1), lump(side),
                             elements_to_test(*acting, 6));
}

}  // namespace

TEST_CASE("a steerable network on volumes has no error at rotations of the cube",
          "[nn][equivariance]") {
  const std::string layers =
      "{ type = 'steerable_conv3d', group = 'SO(3)', out = ['4 trivial', '2 (1)'], padding = 1 }, "
      "{ "
      "type = 'gated' }, ";
  const auto cube =
      errors_in_space(layers + "{ type = 'global_avgpool' }, { type = 'linear', out = 2 }", "O", 5);
  CHECK(cube.error.size(1) == 23);
  CHECK(largest(cube.error.narrow(0, 0, 2)) < 1e-12);
  CHECK(cube.floor.max().item<double>() == 0);
  const auto any = errors_in_space(layers + "{ type = 'global_avgpool' }", "SO(3)", 15);
  CHECK(any.error.size(1) == 6);
  CHECK(largest(any.error[0]) < 0.1);
  CHECK(largest(any.floor[0]) > 0);
  const auto plain = errors_in_space(
      "{ type = 'conv3d', out = 3, kernel = 3, padding = 1 }, { type = 'global_avgpool' }", "SO(3)",
      15);
  CHECK(largest(plain.error[0]) > 3 * largest(any.error[0]));
  CHECK_THROWS_WITH(errors_of("{ type = 'global_avgpool' }", "T"),
                    Contains("T does not act on [3, 1, 9, 9]"));
}
