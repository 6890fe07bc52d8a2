#include "nn/equivariance.h"

#include <fmt/format.h>

#include <limits>

#include "core/error.h"
#include "groups/grid_action.h"
#include "groups/planar.h"
#include "nn/field_basis.h"

namespace evariste {
namespace {

/// One element acting on images of several sizes.
class Turn {
 public:
  explicit Turn(Element g) : g_(std::move(g)) {}

  bool is_exact(int64_t side) const { return grid_action(g_, static_cast<int>(side)).has_value(); }

  /// Pixels alone; vectors [n, C] stay.
  Tensor pixels(const Tensor& x) const {
    if (x.dim() != 4) return x;
    const auto side = x.size(2);
    if (const auto index = grid_action(g_, static_cast<int>(side)))
      return x.flatten(2)
          .index_select(2, torch::tensor(*index, torch::kInt64).to(x.device()))
          .view(x.sizes());
    // Output pixel (x, y) is the input at g^-1 (x, y); y is up, rows go down.
    const auto place = torch::linspace(-1, 1, side, x.options());
    const auto right = place.unsqueeze(0).expand({side, side}),
               up = -place.unsqueeze(1).expand({side, side});
    const auto from_x = g_(0, 0) * right + g_(1, 0) * up, from_y = g_(0, 1) * right + g_(1, 1) * up;
    const auto grid = torch::stack({from_x, -from_y}, -1).unsqueeze(0);
    return at::grid_sampler(x, grid.expand({x.size(0), -1, -1, -1}), 0, 0, /*align_corners=*/true);
  }

  /// Channels too; nothing where the fields' group does not have the element.
  std::optional<Tensor> act(const Tensor& x, const std::optional<FieldType>& fields) const {
    if (!fields || fields->is_trivial()) return pixels(x);
    if (!fields->group->contains(g_)) return std::nullopt;
    const auto rho = as_tensor(fields->at(g_)).to(x.options());
    const auto moved = pixels(x);
    return rho.matmul(moved.flatten(2 < x.dim() ? 2 : 1).reshape({x.size(0), x.size(1), -1}))
        .view(x.sizes());
  }

 private:
  Element g_;
};

/// 1 within the disc that fits into the image, less a pixel that bilinear interpolation reads; of
/// small images on the pixels around the centre.
Tensor disc(const Tensor& x) {
  const auto side = x.size(2);
  const auto place = torch::arange(side, x.options()) - 0.5 * static_cast<double>(side - 1);
  const auto square = place.square().unsqueeze(0) + place.square().unsqueeze(1);
  const double radius = std::max(0.5 * static_cast<double>(side - 1) - 1, 0.75);
  return (square <= radius * radius).to(x.scalar_type());
}

double ratio(const Tensor& found, const Tensor& expected, bool is_exact) {
  const auto mask = is_exact || expected.dim() != 4 ? Tensor() : disc(expected);
  const auto norm = [&](const Tensor& t) {
    return (mask.defined() ? t * mask : t).to(torch::kFloat64).norm().item<double>();
  };
  return norm(found - expected) / norm(expected);
}

std::vector<Tensor> outputs_of(const Network& network, const Tensor& x) {
  std::vector<Tensor> out;
  for (const auto& layer : network.layers())
    out.push_back(layer->forward(out.empty() ? x : out.back(), nullptr));
  return out;
}

}  // namespace

EquivarianceErrors equivariance_errors(const Network& network,
                                       const std::vector<std::optional<FieldType>>& fields,
                                       const FieldType& input, const Tensor& x,
                                       const std::vector<Element>& elements) {
  torch::NoGradGuard no_grad;
  if (x.dim() != 4 || x.size(2) != x.size(3))
    throw UsageError(fmt::format("equivariance: expected square images [N, C, S, S], got {}",
                                 shape_text(x.sizes())));
  if (input.channels() != x.size(1))
    throw UsageError(fmt::format("equivariance: the input has {} channels, its fields {} have {}",
                                 x.size(1), input.text(), input.channels()));
  const auto count = static_cast<int64_t>(network.layers().size());
  EquivarianceErrors out;
  for (int64_t i = 0; i < count; ++i) out.layers.push_back(std::to_string(i));
  out.elements = elements;
  out.error = torch::full({count, static_cast<int64_t>(elements.size())},
                          std::numeric_limits<double>::quiet_NaN(), torch::kFloat64);
  out.floor = out.error.clone();
  const auto plain = outputs_of(network, x), masked = outputs_of(network, x * disc(x));
  for (size_t e = 0; e < elements.size(); ++e) {
    const Turn turn(elements[e]), back(elements[e].transpose());
    const bool is_exact = turn.is_exact(x.size(2));
    const auto start = is_exact ? x : x * disc(x);
    const auto& reference = is_exact ? plain : masked;
    const auto moved = turn.act(start, input);
    if (!moved)
      throw UsageError(
          fmt::format("equivariance: the element does not act on the input, {}", input.text()));
    const auto found = outputs_of(network, *moved);
    const auto again =
        is_exact ? reference : outputs_of(network, *back.act(*moved, input) * disc(x));
    for (int64_t i = 0; i < count; ++i) {
      const auto layer = static_cast<size_t>(i);
      if (reference[layer].dim() == 4 && reference[layer].size(2) != reference[layer].size(3))
        continue;
      const auto expected = turn.act(reference[layer], fields[layer]);
      if (!expected) continue;
      const auto at = static_cast<int64_t>(e);
      out.error[i][at] = ratio(found[layer], *expected, is_exact);
      out.floor[i][at] = ratio(again[layer], reference[layer], is_exact);
    }
  }
  return out;
}

std::vector<Element> elements_to_test(const Group& group, int64_t rotations) {
  if (group.is_finite()) {
    auto out = group.elements();
    if (out.size() > 1) out.erase(out.begin());
    return out;
  }
  const auto* planar = dynamic_cast<const PlanarGroup*>(&group);
  if (!planar) throw UsageError(fmt::format("{}: expected a group of the plane", group.name()));
  std::vector<Element> out;
  for (int64_t r = 1; r < rotations; ++r) out.push_back(rotation_by_turns(r, rotations));
  if (planar->has_reflections())
    for (int64_t r = 0; r < rotations; ++r)
      out.push_back(rotation_by_turns(r, rotations) * reflection_about(planar->axis()));
  return out;
}

}  // namespace evariste
