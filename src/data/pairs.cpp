#include "data/pairs.h"

#include <fmt/format.h>

#include <cmath>
#include <numbers>

#include "core/error.h"
#include "data/expect_images.h"
#include "data/transform.h"
#include "groups/group.h"

namespace evariste {
namespace {

using torch::Tensor;

/// [C]: the places of the digits of each class.
std::vector<Tensor> places_by_class(const Dataset& digits) {
  std::vector<Tensor> places;
  for (int64_t c = 0; c < digits.classes; ++c) {
    places.push_back((digits.y == c).nonzero().squeeze(1));
    if (places.back().numel() == 0)
      throw UsageError(
          fmt::format("digit_pairs: expected an image of every class of {}, found none "
                      "of class {} among {}",
                      digits.name, c, digits.size()));
  }
  return places;
}

/// x [n, 1, S, S], image j moved by the element that poses.split(j) draws.
Tensor moved(const Tensor& x, const Group& group, const Stream& poses) {
  constexpr double kQuarter = std::numbers::pi / 2, kExact = 1e-9;
  const Element mirror = reflection_about(kQuarter);
  auto out = x.clone();
  auto angles = torch::zeros({x.size(0)}, torch::kFloat32);
  for (int64_t j = 0; j < x.size(0); ++j) {
    Draws draws(poses.split(static_cast<uint64_t>(j)));
    const auto g = group.sample(draws);  // a turn after a flip
    const bool flips = g.determinant() < 0;
    const Element turn = flips ? Element(g * mirror) : g;
    const double angle = std::atan2(turn(1, 0), turn(0, 0)),
                 quarters = std::round(angle / kQuarter);
    const bool is_exact = std::abs(angle - quarters * kQuarter) < kExact;
    auto image = flips ? x[j].flip(2) : x[j];
    if (is_exact) image = image.rot90(static_cast<int64_t>(quarters), {1, 2});
    if (flips || is_exact) out[j].copy_(image);
    if (!is_exact) angles.data_ptr<float>()[j] = static_cast<float>(angle);
  }
  const auto rest = angles.nonzero().squeeze(1);
  if (rest.numel() > 0)
    out.index_copy_(0, rest, rotate(out.index_select(0, rest), angles.index_select(0, rest)));
  return out;
}

}  // namespace

Dataset digit_pairs(const Dataset& digits, int64_t count, const std::string& group,
                    const Stream& stream) {
  expect_images(digits.x, torch::kUInt8, "digit_pairs");
  const auto side = digits.x.size(2), classes = digits.classes;
  if (digits.x.size(1) != 1 || digits.x.size(3) != side || side % 2 != 0)
    throw UsageError(
        fmt::format("digit_pairs: expected grey square images of an even size, found "
                    "{} x {} x {}",
                    digits.x.size(1), side, digits.x.size(3)));
  if (count < 1) throw UsageError(fmt::format("digit_pairs: expected at least 1, found {}", count));
  const auto places = places_by_class(digits);
  auto chosen = torch::empty({count, 2}, torch::kInt64);
  for (int64_t i = 0; i < count; ++i) {
    Draws draws(stream.split("digits").split(static_cast<uint64_t>(i)));
    const auto label = i % (classes * classes);
    for (int64_t side_of = 0; side_of < 2; ++side_of) {
      const auto& of =
          places[static_cast<size_t>(side_of == 0 ? label / classes : label % classes)];
      const auto place = static_cast<int64_t>(draws.below(static_cast<uint64_t>(of.numel())));
      chosen.data_ptr<int64_t>()[2 * i + side_of] = of.data_ptr<int64_t>()[place];
    }
  }
  const auto x = moved(digits.x.index_select(0, chosen.flatten()), *make_group(group, 2),
                       stream.split("poses"))
                     .view({count, 2, side, side});
  auto out = digits;
  out.name = fmt::format("pairs({}, {})", digits.name, group);
  out.x = torch::zeros({count, 1, 2 * side, 2 * side}, torch::kUInt8);
  for (int64_t s = 0; s < 2; ++s)
    out.x.select(1, 0).narrow(1, side / 2, side).narrow(2, s * side, side).copy_(x.select(1, s));
  out.y = torch::arange(count, torch::kInt64) % (classes * classes);
  out.classes = classes * classes;
  out.normalisation = kPairsNormalisation;
  out.index = torch::arange(count, torch::kInt64);
  return out;
}

}  // namespace evariste
