// Builders of maps with weights: linear, convolutions, fully connected on images.
#include <fmt/ranges.h>

#include <algorithm>

#include "core/error.h"
#include "nn/anchors.h"
#include "nn/build_layer.h"
#include "nn/factored.h"
#include "nn/group_convolution.h"
#include "nn/linear.h"
#include "nn/volume_convolution.h"

namespace evariste::network_file {

void expect_size(const LayerTable& table, std::string_view what, at::IntArrayRef shape) {
  constexpr double kMost = 1 << 30;
  double numbers = 1;  // in double, which cannot overflow
  for (const auto size : shape) numbers *= static_cast<double>(size);
  if (numbers > kMost)
    table.fail(fmt::format("{} {} has {:.4g} numbers, expected at most {:.0f}", what,
                           shape_text(shape), numbers, kMost));
}

void expect_image(const Request& r) {
  if (r.shape.size() != 3)
    r.table.fail(fmt::format("expected an input [C, H, W], got {}", shape_text(r.shape)));
}

namespace {

/// Keys of a convolution from `in` channels over the grid behind them, checked; the shape becomes
/// that of its output.
template <size_t D>
GridGeometry<D> read_convolution(Request& r, int64_t in, int64_t out) {
  using Geometry = GridGeometry<D>;
  Geometry geometry;
  geometry.kernel = r.table.sizes<D>("kernel", {}, 1);
  geometry.stride = r.table.sizes<D>("stride", Geometry::all(1), 1);
  geometry.padding = r.table.sizes<D>("padding", Geometry::all(0), 0);
  geometry.dilation = r.table.sizes<D>("dilation", Geometry::all(1), 1);
  geometry.groups = r.table.integer("groups", 1);
  geometry.circular = r.table.choice("padding_mode", {"zeros", "circular"}) == "circular";
  if (in % geometry.groups != 0 || out % geometry.groups != 0)
    r.table.fail(fmt::format("groups = {} divides not both {} inputs and {} outputs",
                             geometry.groups, in, out));
  typename Geometry::Sizes sizes{};
  for (size_t d = 0; d < D; ++d) {
    sizes[d] = r.shape[d + 1];
    if (geometry.circular && geometry.padding[d] > sizes[d])
      r.table.fail(fmt::format("padding {} wraps around the input {} more than once",
                               geometry.padding[d], shape_text(r.shape)));
  }
  sizes = geometry.output_size(sizes);
  if (*std::min_element(sizes.begin(), sizes.end()) < 1)
    r.table.fail(fmt::format("kernel {} does not fit into the padded input {}",
                             fmt::join(geometry.kernel, "x"), shape_text(r.shape)));
  expect_size(r.table, "weight", geometry.weight_shape(out, in));
  r.shape = {out};
  r.shape.insert(r.shape.end(), sizes.begin(), sizes.end());
  return geometry;
}

}  // namespace

Made make_conv(Request& r) {
  expect_image(r);
  const auto out = r.table.width("out", r.classes), in = r.shape[0];
  const auto geometry = read_convolution<2>(r, in, out);
  return std::make_shared<Conv2d>(in, out, geometry, r.table.boolean("bias", true));
}

Made make_conv1d(Request& r) {
  if (r.shape.size() != 2)
    r.table.fail(fmt::format("expected an input [C, L], got {}", shape_text(r.shape)));
  ConvGeometry geometry;
  const auto out = r.table.width("out", r.classes);
  geometry.kernel[1] = r.table.integer("kernel");
  geometry.stride[1] = r.table.integer("stride", 1);
  geometry.padding[1] = r.table.integer("padding", 0, 0);
  geometry.dilation[1] = r.table.integer("dilation", 1);
  geometry.groups = r.table.integer("groups", 1);
  geometry.circular = r.table.choice("padding_mode", {"zeros", "circular"}) == "circular";
  if (r.shape[0] % geometry.groups != 0 || out % geometry.groups != 0)
    r.table.fail(fmt::format("groups = {} divides not both {} inputs and {} outputs",
                             geometry.groups, r.shape[0], out));
  if (geometry.circular && geometry.padding[1] > r.shape[1])
    r.table.fail(fmt::format("padding {} wraps around the input {} more than once",
                             geometry.padding[1], shape_text(r.shape)));
  const auto length = geometry.output_size(1, r.shape[1])[1];
  if (length < 1)
    r.table.fail(fmt::format("kernel {} does not fit into the padded input {}", geometry.kernel[1],
                             shape_text(r.shape)));
  const auto in = r.shape[0];
  expect_size(r.table, "weight", {out, in / geometry.groups, geometry.kernel[1]});
  r.shape = {out, length};
  return std::make_shared<Conv1d>(in, out, geometry, r.table.boolean("bias", true));
}

void expect_volume(const Request& r) {
  if (r.shape.size() != 4)
    r.table.fail(fmt::format("expected an input [C, D, H, W], got {}", shape_text(r.shape)));
}

Made make_conv3d(Request& r) {
  expect_volume(r);
  const auto out = r.table.width("out", r.classes), in = r.shape[0];
  const auto geometry = read_convolution<3>(r, in, out);
  return std::make_shared<Conv3d>(in, out, geometry, r.table.boolean("bias", true));
}

Made make_avgpool3d(Request& r) {
  expect_volume(r);
  const auto kernel = r.table.sizes<3>("kernel", {}, 1);
  const auto stride = r.table.sizes<3>("stride", kernel, 1);
  const auto padding = r.table.sizes<3>("padding", VolumeGeometry::all(0), 0);
  for (size_t d = 0; d < 3; ++d) {
    auto& length = r.shape[d + 1];
    if (2 * padding[d] > kernel[d])
      r.table.fail(
          fmt::format("padding {} is more than half the kernel {}", padding[d], kernel[d]));
    if (length + 2 * padding[d] < kernel[d])
      r.table.fail(
          fmt::format("kernel {} does not fit into the input {}", kernel[d], shape_text(r.shape)));
    length = (length + 2 * padding[d] - kernel[d]) / stride[d] + 1;
  }
  return std::make_shared<AvgPool3d>(kernel, stride, padding);
}

Made make_linear(Request& r) {
  const auto out = r.table.width("out", r.classes), in = r.shape.back();
  if (r.shape.size() > 2)
    r.table.fail(
        fmt::format("expected an input [D] or [T, D], got {}; a flatten or global_avgpool "
                    "layer makes one",
                    shape_text(r.shape)));
  expect_size(r.table, "weight", {out, in});
  r.shape.back() = out;
  return std::make_shared<Linear>(in, out, r.table.boolean("bias", true));
}

namespace {

/// {D, H/s, W/s} of an fc or factored_fc layer.
Shape subsampled(Request& r) {
  expect_image(r);
  const auto out = r.table.width("out", r.classes), stride = r.table.integer("stride", 1);
  if (r.shape[1] % stride != 0 || r.shape[2] % stride != 0)
    r.table.fail(
        fmt::format("stride {} does not divide the input {}", stride, shape_text(r.shape)));
  return {out, r.shape[1] / stride, r.shape[2] / stride};
}

}  // namespace

Made make_fc(Request& r) {
  const auto in = r.shape;
  r.shape = subsampled(r);
  expect_size(r.table, "weight", {c10::multiply_integers(r.shape), c10::multiply_integers(in)});
  return std::make_shared<FullyConnected>(in, r.shape, r.table.boolean("bias", true));
}

Made make_factored_fc(Request& r) {
  const auto in = r.shape;
  r.shape = subsampled(r);
  expect_size(r.table, "U", {r.shape[0], c10::multiply_integers(in)});  // V is no larger
  return std::make_shared<FactoredFullyConnected>(in, r.shape, r.table.boolean("bias", true));
}

namespace {

AnchorOptions anchor_options(Request& r) {
  AnchorOptions options;
  options.ratio = r.table.number("anchors", options.ratio, "0 < anchors <= 1",
                                 [](double value) { return value > 0 && value <= 1; });
  options.omega = r.table.number("omega", options.omega, "a finite number above 0",
                                 [](double value) { return value > 0; });
  options.learns = r.table.boolean("learn_omega", options.learns);
  return options;
}

}  // namespace

ConvGeometry square_geometry(Request& r, std::optional<int64_t> kernel) {
  ConvGeometry geometry;
  const auto k = r.table.integer("kernel", kernel), padding = r.table.integer("padding", 0, 0);
  geometry.kernel = {k, k};
  geometry.padding = {padding, padding};
  geometry.circular = r.table.choice("padding_mode", {"zeros", "circular"}) == "circular";
  if (geometry.circular && (padding > r.shape[1] || padding > r.shape[2]))
    r.table.fail(fmt::format("padding {} wraps around the input {} more than once", padding,
                             shape_text(r.shape)));
  const auto [h, w] = geometry.output_size(r.shape[1], r.shape[2]);
  if (h < 1 || w < 1)
    r.table.fail(fmt::format("kernel {}x{} does not fit into the padded input {}", k, k,
                             shape_text(r.shape)));
  return geometry;
}

Made make_sparse_conv(Request& r) {
  expect_image(r);
  const auto out = r.table.width("out", r.classes), in = r.shape[0];
  const auto geometry = square_geometry(r, {});
  const auto options = anchor_options(r);
  expect_size(r.table, "weight", {out, in, geometry.kernel[0], geometry.kernel[1]});
  const auto points = geometry.kernel[0] * geometry.kernel[1];
  expect_size(r.table, "distances", {points, points});
  const auto [h, w] = geometry.output_size(r.shape[1], r.shape[2]);
  r.shape = {out, h, w};
  return std::make_shared<SparseConv2d>(in, out, geometry, options, r.table.boolean("bias", true));
}

Made make_sparse_fc(Request& r) {
  const auto in = r.shape;
  r.shape = subsampled(r);
  const auto options = anchor_options(r);
  expect_size(r.table, "U", {r.shape[0], c10::multiply_integers(in)});
  for (const auto& map : {in, r.shape})  // distances between all points of a map
    expect_size(r.table, "distances", {map[1] * map[2], map[1] * map[2]});
  return std::make_shared<SparseFullyConnected>(in, r.shape, options,
                                                r.table.boolean("bias", true));
}

namespace {

/// C of an input [4 C, H, W].
int64_t copied_channels(const Request& r) {
  expect_image(r);
  if (r.shape[0] % 4 != 0)
    r.table.fail(
        fmt::format("expected an input [4 C, H, W], four copies of C channels, got {}; a "
                    "group_lift layer makes one",
                    shape_text(r.shape)));
  return r.shape[0] / 4;
}

}  // namespace

Made make_group_conv(Request& r) {
  const auto in = copied_channels(r);
  const auto out = r.table.width("out", r.classes);
  const auto geometry = square_geometry(r, 3);
  GroupConv2d::Options options;
  options.kernel = geometry.kernel[0];
  if (options.kernel % 2 == 0)
    r.table.fail(
        fmt::format("kernel: expected an odd number, found {}: an even one turns about no "
                    "pixel",
                    options.kernel));
  options.padding = geometry.padding[0];
  options.circular = geometry.circular;
  options.groups = r.table.integer("groups", 1);
  options.mix = r.table.boolean("mix", true);
  options.bias = r.table.boolean("bias", true);
  if (in % options.groups != 0 || out % options.groups != 0)
    r.table.fail(fmt::format("groups = {} divides not both {} inputs and {} outputs",
                             options.groups, in, out));
  expect_size(r.table, "kernel",
              {4 * out, 4 * in / options.groups, options.kernel, options.kernel});
  const auto [h, w] = geometry.output_size(r.shape[1], r.shape[2]);
  r.shape = {4 * out, h, w};
  return std::make_shared<GroupConv2d>(in, out, options);
}

Made make_group_lift(Request& r) {
  expect_image(r);
  r.shape[0] *= 4;
  return std::make_shared<GroupLift>();
}

Made make_group_pool(Request& r) {
  r.shape[0] = copied_channels(r);
  return std::make_shared<GroupPool>();
}

}  // namespace evariste::network_file
