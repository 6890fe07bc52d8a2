#include "nn/equivariance.h"

#include <fmt/format.h>

#include <limits>

#include "core/error.h"
#include "groups/grid_action.h"
#include "groups/planar.h"
#include "nn/field_basis.h"

namespace evariste {
namespace {

/// Axes of a grid: 2 of images [n, C, S, S], 3 of volumes, 0 of vectors.
int64_t axes_of(const Tensor& x) { return std::max<int64_t>(0, x.dim() - 2); }

bool has_equal_sides(const Tensor& x) {
  for (int64_t axis = 3; axis < x.dim(); ++axis)
    if (x.size(axis) != x.size(2)) return false;
  return true;
}

/// Distances from the centre along every axis of the tensor: [axes, S, ...].
Tensor offsets(const Tensor& x) {
  const auto side = x.size(2);
  const auto place = torch::arange(side, x.options()) - 0.5 * static_cast<double>(side - 1);
  return torch::stack(
      torch::meshgrid(std::vector<Tensor>(static_cast<size_t>(axes_of(x)), place), "ij"));
}

/// One element acting on images or volumes of several sizes.
class Turn {
 public:
  explicit Turn(Element g) : g_(std::move(g)) {}

  bool is_exact(int64_t side) const { return grid_action(g_, static_cast<int>(side)).has_value(); }

  /// Pixels alone; vectors [n, C] stay.
  Tensor pixels(const Tensor& x) const {
    if (axes_of(x) == 0) return x;
    const auto side = x.size(2);
    if (const auto index = grid_action(g_, static_cast<int>(side)))
      return x.flatten(2)
          .index_select(2, torch::tensor(*index, torch::kInt64).to(x.device()))
          .view(x.sizes());
    // Output point p = (x, y, z) is the input at g^-1 p; rows go down where y is up, slices where z
    // is. grid_sampler takes columns, rows, slices in [-1, 1].
    const auto scale = 2 / static_cast<double>(std::max<int64_t>(1, side - 1));
    auto points = scale * offsets(x).flip(0);  // columns first
    auto shape = points.sizes().vec();
    points.narrow(0, 1, shape[0] - 1).neg_();
    auto from = as_tensor(g_.transpose()).to(x.options()).matmul(points.flatten(1)).view(shape);
    from.narrow(0, 1, shape[0] - 1).neg_();
    shape = from.movedim(0, -1).sizes().vec();
    shape.insert(shape.begin(), x.size(0));
    return at::grid_sampler(x, from.movedim(0, -1).unsqueeze(0).expand(shape), 0, 0,
                            /*align_corners=*/true);
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

/// 1 within the disc or ball that fits into the grid, less a pixel that interpolation reads; of
/// small images on the pixels around the centre.
Tensor disc(const Tensor& x) {
  const double radius = std::max(0.5 * static_cast<double>(x.size(2) - 1) - 1, 0.9);
  return (offsets(x).square().sum(0) <= radius * radius).to(x.scalar_type());
}

double ratio(const Tensor& found, const Tensor& expected, bool is_exact) {
  const auto mask = is_exact || axes_of(expected) == 0 ? Tensor() : disc(expected);
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
  if ((x.dim() != 4 && x.dim() != 5) || !has_equal_sides(x))
    throw UsageError(
        fmt::format("equivariance: expected square images [N, C, S, S] or cubic volumes [N, C, S, "
                    "S, S], got {}",
                    shape_text(x.sizes())));
  if (input.group->dimension() != axes_of(x))
    throw UsageError(fmt::format("equivariance: {} does not act on {}", input.group->name(),
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
  const auto plain = outputs_of(network, x);
  std::vector<Tensor> masked;  // of inputs within the disc, where they are interpolated
  for (size_t e = 0; e < elements.size(); ++e) {
    const Turn turn(elements[e]), back(elements[e].transpose());
    const bool is_exact = turn.is_exact(x.size(2));
    if (!is_exact && masked.empty()) masked = outputs_of(network, x * disc(x));
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
      if (!has_equal_sides(reference[layer])) continue;
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
  std::vector<Element> out;
  const auto* planar = dynamic_cast<const PlanarGroup*>(&group);
  if (!planar) {
    Draws draws(Stream(0));
    for (int64_t r = 0; r < rotations; ++r) out.push_back(group.sample(draws));
    return out;
  }
  for (int64_t r = 1; r < rotations; ++r) out.push_back(rotation_by_turns(r, rotations));
  if (planar->has_reflections())
    for (int64_t r = 0; r < rotations; ++r)
      out.push_back(rotation_by_turns(r, rotations) * reflection_about(planar->axis()));
  return out;
}

}  // namespace evariste
