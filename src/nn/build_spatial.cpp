// Builders of layers that change the grid of images and volumes, or the group of their fields.
#include <fmt/ranges.h>

#include <algorithm>

#include "nn/build_layer.h"
#include "nn/field_restriction.h"
#include "nn/resample.h"
#include "nn/transposed_convolution.h"

namespace evariste::network_file {
namespace {

void expect_grid(const Request& r) {
  if (r.shape.size() != 3 && r.shape.size() != 4)
    r.table.fail(
        fmt::format("expected an input [C, H, W] or [C, D, H, W], got {}", shape_text(r.shape)));
}

}  // namespace

Made make_blurpool(Request& r) {
  expect_grid(r);
  const auto sigma = r.table.number("sigma", 0.66, "0 < sigma <= 1000",
                                    [](double value) { return value > 0 && value <= 1000; });
  const auto stride = r.table.integer("stride", 2);
  const auto padding = r.table.integer("padding", BlurPool::size_of(sigma) / 2, 0);
  auto layer = std::make_shared<BlurPool>(sigma, stride, padding);
  if (2 * padding > layer->size())
    r.table.fail(fmt::format("padding {} is more than half the window {}", padding, layer->size()));
  for (size_t d = 1; d < r.shape.size(); ++d) {
    const auto side = layer->output_of(r.shape[d]);
    if (side < 1)
      r.table.fail(fmt::format("a window of {} (sigma {}) does not fit into the input {}",
                               layer->size(), sigma, shape_text(r.shape)));
    r.shape[d] = side;
  }
  return layer;
}

namespace {

/// What the elements of a group do to the axes of a tensor's grid, from those that generate it.
struct AxisMoves {
  bool goes_between = false;  // some moves pixels between others
  bool reverses = false;      // some reverses an axis
  std::vector<std::pair<size_t, size_t>> exchanged;

  explicit AxisMoves(const Group& group) {
    const auto axes = static_cast<Eigen::Index>(group.dimension());
    for (const auto& g : group.generators())
      for (Eigen::Index i = 0; i < axes; ++i)
        for (Eigen::Index j = 0; j < axes; ++j) {
          const double size = std::abs(g(i, j));
          if (size < 1e-9) continue;
          if (std::abs(size - 1) > 1e-9) goes_between = true;
          // x is the last axis; y and z rise where rows and slices fall.
          if (i != j)
            exchanged.emplace_back(static_cast<size_t>(axes - 1 - i),
                                   static_cast<size_t>(axes - 1 - j));
          if (g(i, j) * (i == 0 ? 1 : -1) * (j == 0 ? 1 : -1) < 0) reverses = true;
        }
  }
};

/// Refuses what the fields' group does not commute with.
void expect_to_commute(const Request& r, const Shape& size, Upsample::Mode mode) {
  const auto& name = r.fields->group->name();
  const AxisMoves moves(*r.fields->group);
  for (const auto& [a, b] : moves.exchanged)
    if (size[a] * r.shape[b + 1] != size[b] * r.shape[a + 1])
      r.table.fail(
          fmt::format("size [{}] stretches the axes of {} unequally, and {} turns one "
                      "into the other",
                      fmt::join(size, ", "), shape_text(r.shape), name));
  if (mode == Upsample::Mode::kLinear) return;
  if (moves.goes_between)
    r.table.fail(
        fmt::format("mode = \"nearest\" repeats pixels as squares, and {} turns squares "
                    "by other than quarter turns: expected \"linear\"",
                    name));
  for (size_t d = 0; d < size.size(); ++d)
    if (moves.reverses && size[d] % r.shape[d + 1] != 0)
      r.table.fail(
          fmt::format("mode = \"nearest\" repeats some of {} pixels more often to make {} "
                      "of them, others when reversed by {}: expected a multiple, or "
                      "\"linear\"",
                      r.shape[d + 1], size[d], name));
}

/// Key "size": the sides that go out; none where it is absent.
Shape given_size(Request& r) {
  if (!r.table.any("size")) return {};
  if (r.shape.size() == 3) {
    const auto sizes = r.table.sizes<2>("size", {}, 1);
    return {sizes.begin(), sizes.end()};
  }
  const auto sizes = r.table.sizes<3>("size", {}, 1);
  return {sizes.begin(), sizes.end()};
}

/// Those of key "scale", rounded down; none where it is absent.
Shape scaled_size(Request& r) {
  const auto* node = r.table.any("scale");
  if (!node) return {};
  const auto axes = r.shape.size() - 1;
  const auto* list = node->as_array();
  const auto wrong = [&](const std::string& found) {
    r.table.fail(
        fmt::format("scale: expected a number above 0 or {} of them, found {}", axes, found));
  };
  if (list && list->size() != axes) wrong(fmt::format("{}", list->size()));
  Shape size;
  for (size_t d = 0; d < axes; ++d) {
    const auto& entry = list ? (*list)[d] : *node;
    if (!entry.is_number()) wrong(std::string(toml_kind(entry)));
    const auto value = *entry.value<double>();
    if (!std::isfinite(value) || value <= 0 || value > 1e9) wrong(fmt::format("{}", value));
    size.push_back(static_cast<int64_t>(std::floor(static_cast<double>(r.shape[d + 1]) * value)));
    if (size.back() < 1)
      r.table.fail(
          fmt::format("scale {} leaves nothing of the input {}", value, shape_text(r.shape)));
  }
  return size;
}

Shape upsampled(Request& r) {
  const auto size = given_size(r), scaled = scaled_size(r);
  if (size.empty() && scaled.empty()) r.table.fail("key \"size\" or \"scale\" is missing");
  if (!size.empty() && !scaled.empty() && size != scaled)
    r.table.fail(fmt::format("size: expected as scale says, [{}], found [{}]",
                             fmt::join(scaled, ", "), fmt::join(size, ", ")));
  return size.empty() ? scaled : size;
}

}  // namespace

Made make_upsample(Request& r) {
  expect_grid(r);
  const auto size = upsampled(r);
  const auto mode = r.table.choice("mode", {"linear", "nearest"}) == "linear"
                        ? Upsample::Mode::kLinear
                        : Upsample::Mode::kNearest;
  if (r.fields) expect_to_commute(r, size, mode);
  std::copy(size.begin(), size.end(), r.shape.begin() + 1);
  r.made = r.fields;
  return std::make_shared<Upsample>(size, mode);
}

Made make_mask(Request& r) {
  expect_grid(r);
  const auto margin = r.table.number("margin", 1, "0 <= margin <= 100",
                                     [](double value) { return value >= 0 && value <= 100; });
  const auto sigma =
      r.table.number("sigma", 2, "a finite number above 0", [](double value) { return value > 0; });
  return in_place(r, [&]() -> Made {
    return std::make_shared<DiscMask>(Shape(r.shape.begin() + 1, r.shape.end()), margin, sigma);
  });
}

namespace {

template <class Conv>
Made make_transposed(Request& r) {
  using Geometry = typename TransposedConvBlock<Conv>::Geometry;
  constexpr auto D = Geometry::kDimension;
  const auto in = r.shape[0], out = r.table.width("out", r.classes);
  Geometry geometry;
  geometry.kernel = r.table.template sizes<D>("kernel", {}, 1);
  geometry.stride = r.table.template sizes<D>("stride", Geometry::all(1), 1);
  geometry.padding = r.table.template sizes<D>("padding", Geometry::all(0), 0);
  geometry.output_padding = r.table.template sizes<D>("output_padding", Geometry::all(0), 0);
  geometry.dilation = r.table.template sizes<D>("dilation", Geometry::all(1), 1);
  geometry.groups = r.table.integer("groups", 1);
  if (in % geometry.groups != 0 || out % geometry.groups != 0)
    r.table.fail(fmt::format("groups = {} divides not both {} inputs and {} outputs",
                             geometry.groups, in, out));
  typename Geometry::Sizes sides{};
  for (size_t d = 0; d < D; ++d) {
    sides[d] = r.shape[d + 1];
    const auto most = std::max(geometry.stride[d], geometry.dilation[d]) - 1;
    if (geometry.output_padding[d] > most)
      r.table.fail(
          fmt::format("output_padding: expected at most {}, less than stride or dilation, "
                      "found {}",
                      most, geometry.output_padding[d]));
  }
  sides = geometry.output_size(sides);
  if (*std::min_element(sides.begin(), sides.end()) < 1)
    r.table.fail(fmt::format("padding [{}] leaves nothing of the output for {}",
                             fmt::join(geometry.padding, ", "), shape_text(r.shape)));
  expect_size(r.table, "weight", geometry.weight_shape(out, in));
  r.shape = {out};
  r.shape.insert(r.shape.end(), sides.begin(), sides.end());
  return std::make_shared<ConvTranspose<Conv>>(in, out, geometry, r.table.boolean("bias", true));
}

}  // namespace

Made make_conv_transpose(Request& r) {
  expect_image(r);
  return make_transposed<ConvBlock>(r);
}

Made make_conv_transpose3d(Request& r) {
  expect_volume(r);
  return make_transposed<VolumeConvBlock>(r);
}

Made make_restrict(Request& r) {
  const auto in = fields_in(r, "from");
  const auto name = r.table.text("group");
  const auto words = texts(r, "out");
  return in_place(r, [&]() -> Made {
    auto layer = std::make_shared<FieldRestriction>(in, make_group(name, in.group->dimension()));
    r.made = layer->out();
    std::vector<std::string> found;
    for (const auto& kind : r.made->kinds)
      found.push_back(fmt::format("{} {}", kind.count, kind.name));
    if (!words.empty() && words != found)
      r.table.fail(fmt::format("out: fields of {} are {} for {}, expected that in place of {}",
                               in.text(), fmt::join(found, ", "), name, fmt::join(words, ", ")));
    return layer;
  });
}

}  // namespace evariste::network_file
