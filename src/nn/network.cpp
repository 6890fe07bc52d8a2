#include "nn/network.h"

#include <optional>

#include "core/error.h"
#include "core/nearest.h"
#include "io/config.h"
#include "nn/affine.h"
#include "nn/anchors.h"
#include "nn/convolution.h"
#include "nn/equivariance.h"
#include "nn/factored.h"
#include "nn/field_activation.h"
#include "nn/group_convolution.h"
#include "nn/layer_table.h"
#include "nn/linear.h"
#include "nn/pointwise.h"
#include "nn/steerable_convolution.h"

namespace evariste {
namespace {

using Shape = std::vector<int64_t>;

/// Numbers in one weight, or in one sample between two layers.
constexpr double kMost = 1 << 30;

/// One sample between two layers, and what its channels transform by where that is known.
struct Signal {
  Shape shape;
  std::optional<FieldType> fields;
};

/// What a layer builder gets: its table and what comes in. It sets the shape that goes out, and the
/// fields where it makes or keeps any.
struct Request {
  LayerTable& table;
  Shape shape;
  int64_t classes;
  std::optional<FieldType> fields;  ///< that come in
  std::optional<FieldType> made;    ///< that go out
};
using Made = std::shared_ptr<Layer>;
using Builder = std::function<Made(Request&)>;

const std::map<std::string, Builder>& builders();

bool are_same(const std::optional<FieldType>& a, const std::optional<FieldType>& b) {
  return a && b && a->text() == b->text();
}

/// Refuses what no machine holds before anything is allocated. In double, which cannot overflow.
void expect_size(const LayerTable& table, std::string_view what, at::IntArrayRef shape) {
  double numbers = 1;
  for (const auto size : shape) numbers *= static_cast<double>(size);
  if (numbers > kMost)
    table.fail(fmt::format("{} {} has {:.4g} numbers, expected at most {:.0f}", what,
                           shape_text(shape), numbers, kMost));
}

/// Layers that leave fields as they are: of any kind, or only where pointwise functions commute
/// with the group, or only of channels that do not transform. Behind all others nothing is known.
enum class Keeps { kAny, kPermutations, kTrivial };
const std::map<std::string, Keeps>& keeps_fields() {
  static const std::map<std::string, Keeps> table = [] {
    std::map<std::string, Keeps> t = {{"avgpool", Keeps::kAny},
                                      {"global_avgpool", Keeps::kAny},
                                      {"scale", Keeps::kAny},
                                      {"polyphase", Keeps::kAny},
                                      {"maxpool", Keeps::kPermutations},
                                      {"bias", Keeps::kPermutations},
                                      {"dropout", Keeps::kPermutations},
                                      {"gelu", Keeps::kPermutations},
                                      {"elu", Keeps::kPermutations},
                                      {"softplus", Keeps::kPermutations},
                                      {"batchnorm", Keeps::kTrivial},
                                      {"layernorm", Keeps::kTrivial},
                                      {"groupnorm", Keeps::kTrivial}};
    for (const auto& kind : Activation::kinds()) t.emplace(kind, Keeps::kPermutations);
    return t;
  }();
  return table;
}

void pass_fields(const LayerTable& table, const std::string& type,
                 const std::optional<FieldType>& before, std::optional<FieldType>& after) {
  const auto found = keeps_fields().find(type);
  if (!before || found == keeps_fields().end()) return;
  if (found->second == Keeps::kPermutations && !before->is_permutation())
    table.fail(fmt::format("{} does not commute with {}, which is not made of permutations", type,
                           before->text()));
  if (found->second == Keeps::kTrivial && !before->is_trivial())
    table.fail(fmt::format("{} has a weight for every channel and does not commute with {}", type,
                           before->text()));
  after = before;
}

Made build_layer(const toml::node& node, const std::string& place, int64_t classes,
                 Signal& signal) {
  const auto* table = node.as_table();
  if (!table)
    throw UsageError(
        fmt::format("{}: expected a layer as a table, found {}", place, toml_kind(node)));
  LayerTable reader(*table, place);
  const auto type = reader.text("type");
  const auto found = builders().find(type);
  if (found == builders().end()) reader.fail(unknown_name("layer type", type, layer_types()));
  Request request{reader, signal.shape, classes, signal.fields, {}};
  auto layer = found->second(request);
  reader.finish(type);
  expect_size(reader, "output", request.shape);
  pass_fields(reader, type, signal.fields, request.made);
  signal = {request.shape, request.made};
  return layer;
}

/// What is behind each layer goes to `after`, where that is given.
void build_sequence(Sequential& sequence, const toml::array& list, const std::string& place,
                    int64_t classes, Signal& signal,
                    std::vector<std::optional<FieldType>>* after = nullptr) {
  for (size_t i = 0; i < list.size(); ++i) {
    sequence.append(build_layer(list[i], fmt::format("{}[{}]", place, i), classes, signal));
    if (after) after->push_back(signal.fields);
  }
}

void expect_image(const Request& r) {
  if (r.shape.size() != 3)
    r.table.fail(fmt::format("expected an input [C, H, W], got {}", shape_text(r.shape)));
}

Made make_conv(Request& r) {
  expect_image(r);
  ConvGeometry geometry;
  const auto out = r.table.width("out", r.classes);
  geometry.kernel = r.table.pair("kernel", {}, 1);
  geometry.stride = r.table.pair("stride", {{1, 1}}, 1);
  geometry.padding = r.table.pair("padding", {{0, 0}}, 0);
  geometry.dilation = r.table.pair("dilation", {{1, 1}}, 1);
  geometry.groups = r.table.integer("groups", 1);
  geometry.circular = r.table.choice("padding_mode", {"zeros", "circular"}) == "circular";
  if (r.shape[0] % geometry.groups != 0 || out % geometry.groups != 0)
    r.table.fail(fmt::format("groups = {} divides not both {} inputs and {} outputs",
                             geometry.groups, r.shape[0], out));
  for (size_t d = 0; d < 2; ++d)
    if (geometry.circular && geometry.padding[d] > r.shape[d + 1])
      r.table.fail(fmt::format("padding {} wraps around the input {} more than once",
                               geometry.padding[d], shape_text(r.shape)));
  const auto [h, w] = geometry.output_size(r.shape[1], r.shape[2]);
  if (h < 1 || w < 1)
    r.table.fail(fmt::format("kernel {}x{} does not fit into the padded input {}",
                             geometry.kernel[0], geometry.kernel[1], shape_text(r.shape)));
  const auto in = r.shape[0];
  expect_size(r.table, "weight",
              {out, in / geometry.groups, geometry.kernel[0], geometry.kernel[1]});
  r.shape = {out, h, w};
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

/// {D, H/s, W/s} of an fc or factored_fc layer.
Shape subsampled(Request& r) {
  expect_image(r);
  const auto out = r.table.width("out", r.classes), stride = r.table.integer("stride", 1);
  if (r.shape[1] % stride != 0 || r.shape[2] % stride != 0)
    r.table.fail(
        fmt::format("stride {} does not divide the input {}", stride, shape_text(r.shape)));
  return {out, r.shape[1] / stride, r.shape[2] / stride};
}

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

AnchorOptions anchor_options(Request& r) {
  AnchorOptions options;
  options.ratio = r.table.number("anchors", options.ratio, "0 < anchors <= 1",
                                 [](double value) { return value > 0 && value <= 1; });
  options.omega = r.table.number("omega", options.omega, "a finite number above 0",
                                 [](double value) { return value > 0; });
  options.learns = r.table.boolean("learn_omega", options.learns);
  return options;
}

/// "kernel" k, "padding" and "padding_mode" of a convolution at stride 1 over square kernels.
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

/// What `make` gives; its UsageErrors with the layer's place.
template <class Make>
auto in_place(const Request& r, const Make& make) {
  try {
    return make();
  } catch (const UsageError& error) {
    if (std::string_view(error.what()).starts_with(r.table.place())) throw;
    r.table.fail(error.what());
  }
}

/// Strings of a list, or a single one; none where the key is absent.
std::vector<std::string> texts(Request& r, std::string_view key) {
  std::vector<std::string> out;
  const auto* node = r.table.any(key);
  if (!node) return out;
  const auto add = [&](const toml::node& entry) {
    if (!entry.is_string())
      r.table.fail(fmt::format("{}: expected \"NUMBER KIND\" or a list of such, found {}", key,
                               toml_kind(entry)));
    out.push_back(entry.as_string()->get());
  };
  if (const auto* list = node->as_array())
    for (const auto& entry : *list) add(entry);
  else
    add(*node);
  return out;
}

/// Keys "group" and "in" of a layer that takes fields: both may be left out behind a layer that
/// makes some, and "in" where channels do not transform.
FieldType fields_in(Request& r) {
  const auto before = r.fields ? std::optional(r.fields->group->name()) : std::nullopt;
  const auto name = r.table.text("group", before);
  const auto words = texts(r, "in");
  return in_place(r, [&] {
    const auto group = make_group(name, 2);
    const auto in = !words.empty() ? FieldType::parse(group, words)
                    : r.fields     ? *r.fields
                                   : FieldType::trivial(group, r.shape[0]);
    if (r.fields && (r.fields->text() != in.text() || r.fields->group->name() != name))
      r.table.fail(fmt::format("expected fields of {}, but what comes in are fields of {}",
                               words.empty() ? name : in.text(), r.fields->text()));
    if (in.channels() != r.shape[0])
      r.table.fail(fmt::format("in: fields of {} have {} channels, the input {} has {}", in.text(),
                               in.channels(), shape_text(r.shape), r.shape[0]));
    return in;
  });
}

/// Those without keys of their own, relu first.
std::vector<std::string> fourier_kinds() {
  std::vector<std::string> out = {"relu"};
  for (const auto& kind : Activation::kinds())
    if (kind != "relu") out.push_back(kind);
  return out;
}

Made make_steerable_conv(Request& r) {
  expect_image(r);
  const auto in = fields_in(r);
  const auto words = texts(r, "out");
  if (words.empty()) r.table.fail("key \"out\" is missing");
  const auto geometry = square_geometry(r, 3);
  SteerableConv2d::Options options;
  options.kernel = geometry.kernel[0];
  options.padding = geometry.padding[0];
  options.circular = geometry.circular;
  options.stride = r.table.integer("stride", 1);
  options.dilation = r.table.integer("dilation", 1);
  options.isotypic = r.table.text("isotypic", in.group->irreps(0)[0].name);
  options.bias = r.table.boolean("bias", true);
  return in_place(r, [&]() -> Made {
    const auto out = FieldType::parse(in.group, words);
    expect_size(r.table, "kernel", {out.channels(), in.channels(), options.kernel, options.kernel});
    auto layer = std::make_shared<SteerableConv2d>(in, out, options);
    const auto [h, w] = layer->geometry().output_size(r.shape[1], r.shape[2]);
    if (h < 1 || w < 1)
      r.table.fail(fmt::format("kernel {} does not fit into the padded input {}", options.kernel,
                               shape_text(r.shape)));
    r.shape = {out.channels(), h, w};
    r.made = out;
    return layer;
  });
}

Made make_fourier(Request& r) {
  const auto in = fields_in(r);
  const auto kind = r.table.choice("activation", fourier_kinds());
  const auto samples = r.table.integer("samples", 0, 0);
  r.made = in;
  return in_place(r,
                  [&]() -> Made { return std::make_shared<FourierActivation>(in, kind, samples); });
}

Made make_field_pool(Request& r) {
  const auto in = fields_in(r);
  if (!in.is_permutation())
    r.table.fail(
        fmt::format("the largest component is not invariant for {}, which is not made of "
                    "permutations",
                    in.text()));
  r.shape[0] = in.fields();
  r.made = FieldType::trivial(in.group, r.shape[0]);
  return std::make_shared<FieldPool>(in);
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

Made make_polyphase(Request& r) {
  expect_image(r);
  const auto stride = r.table.integer("stride", 2, 2);
  if (r.shape[1] % stride != 0 || r.shape[2] % stride != 0)
    r.table.fail(
        fmt::format("stride {} does not divide the input {}", stride, shape_text(r.shape)));
  r.shape = {r.shape[0], r.shape[1] / stride, r.shape[2] / stride};
  return std::make_shared<Polyphase>(stride);
}

/// Windows over [C, H, W], or over [C, L] as if H were 1.
template <class Pool>
Made make_pool(Request& r) {
  if (r.shape.size() != 2 && r.shape.size() != 3)
    r.table.fail(fmt::format("expected an input [C, H, W] or [C, L], got {}", shape_text(r.shape)));
  std::array<int64_t, 2> kernel{1, 1}, stride{1, 1}, padding{0, 0};
  if (r.shape.size() == 3) {
    kernel = r.table.pair("kernel", {}, 1);
    stride = r.table.pair("stride", kernel, 1);
    padding = r.table.pair("padding", {{0, 0}}, 0);
  } else {
    kernel[1] = r.table.integer("kernel");
    stride[1] = r.table.integer("stride", kernel[1]);
    padding[1] = r.table.integer("padding", 0, 0);
  }
  const size_t skipped = 3 - r.shape.size();  // 1 where there is no height
  for (size_t d = 0; d < r.shape.size() - 1; ++d) {
    const auto side = d + skipped;
    auto& length = r.shape[d + 1];
    if (2 * padding[side] > kernel[side])
      r.table.fail(
          fmt::format("padding {} is more than half the kernel {}", padding[side], kernel[side]));
    if (length + 2 * padding[side] < kernel[side])
      r.table.fail(fmt::format("kernel {} does not fit into the input {}", kernel[side],
                               shape_text(r.shape)));
    length = (length + 2 * padding[side] - kernel[side]) / stride[side] + 1;
  }
  return std::make_shared<Pool>(kernel, stride, padding);
}

Made make_residual(Request& r) {
  auto layer = std::make_shared<Residual>();
  Signal signal{r.shape, r.fields};
  build_sequence(*layer, r.table.layers("layer"), r.table.place() + ".layer", r.classes, signal);
  if (signal.shape != r.shape)
    r.table.fail(fmt::format("the body turns {} into {}, which cannot be added to its input",
                             shape_text(r.shape), shape_text(signal.shape)));
  if (are_same(signal.fields, r.fields)) r.made = r.fields;
  return layer;
}

Made make_repeat(Request& r) {
  const auto times = r.table.integer("times");
  Sequential body;
  Signal signal{r.shape, r.fields};
  build_sequence(body, r.table.layers("layer"), r.table.place() + ".layer", r.classes, signal);
  if (signal.shape != r.shape)
    r.table.fail(fmt::format("the body turns {} into {}, which is no input of the body again",
                             shape_text(r.shape), shape_text(signal.shape)));
  if (are_same(signal.fields, r.fields)) r.made = r.fields;
  return std::make_shared<Repeat>(body.layers(), times);
}

Made make_sum(Request& r) {
  const auto scale = r.table.number("scale", 0, "a finite number other than 0",
                                    [](double value) { return value != 0; });
  auto layer = std::make_shared<Sum>(scale);
  const auto& paths = r.table.layers("of");
  Signal result;
  for (size_t k = 0; k < paths.size(); ++k) {
    Signal signal{r.shape, r.fields};
    const auto place = fmt::format("{}.of[{}]", r.table.place(), k);
    if (const auto* list = paths[k].as_array()) {
      auto path = std::make_shared<Sequential>();
      build_sequence(*path, *list, place, r.classes, signal);
      layer->append(path);
    } else {
      layer->append(build_layer(paths[k], place, r.classes, signal));
    }
    if (k > 0 && signal.shape != result.shape)
      r.table.fail(fmt::format("pathway {} gives {}, pathway 0 gives {}", k,
                               shape_text(signal.shape), shape_text(result.shape)));
    if (k > 0 && !are_same(signal.fields, result.fields)) signal.fields.reset();
    result = signal;
  }
  r.shape = result.shape;
  r.made = result.fields;
  return layer;
}

Made make_norm(Norm::Kind kind, Request& r) {
  const auto groups = kind == Norm::Kind::kGroup ? r.table.integer("groups") : 1;
  if (r.shape[0] % groups != 0)
    r.table.fail(
        fmt::format("groups: {} channels cannot be split into {} groups", r.shape[0], groups));
  const auto epsilon = r.table.number("eps", 1e-5, "a finite number of at least 0",
                                      [](double value) { return value >= 0; });
  const double momentum =
      kind == Norm::Kind::kBatch
          ? r.table.number("momentum", 0.1, "0 <= momentum <= 1",
                           [](double value) { return value >= 0 && value <= 1; })
          : 0;
  return std::make_shared<Norm>(kind, r.shape, groups, epsilon, r.table.boolean("affine", true),
                                momentum);
}

Made make_dropout(Request& r) {
  return std::make_shared<Dropout>(
      r.table.number("p", 0.5, "0 <= p < 1", [](double value) { return value >= 0 && value < 1; }));
}

Made make_gelu(Request& r) {
  ActivationOptions options;
  options.tanh_gelu = r.table.choice("approximate", {"none", "tanh"}) == "tanh";
  return std::make_shared<Activation>("gelu", options);
}

Made make_elu(Request& r) {
  ActivationOptions options;
  options.alpha = r.table.number("alpha", options.alpha);
  return std::make_shared<Activation>("elu", options);
}

Made make_softplus(Request& r) {
  ActivationOptions options;
  options.beta = r.table.number("beta", options.beta, "a finite number above 0",
                                [](double value) { return value > 0; });
  options.threshold = r.table.number("threshold", options.threshold);
  return std::make_shared<Activation>("softplus", options);
}

const std::map<std::string, Builder>& builders() {
  static const std::map<std::string, Builder> table = [] {
    std::map<std::string, Builder> t = {
        {"linear", make_linear},
        {"conv", make_conv},
        {"conv1d", make_conv1d},
        {"fc", make_fc},
        {"factored_fc", make_factored_fc},
        {"sparse_conv", make_sparse_conv},
        {"sparse_fc", make_sparse_fc},
        {"group_lift", make_group_lift},
        {"group_conv", make_group_conv},
        {"group_pool", make_group_pool},
        {"steerable_conv", make_steerable_conv},
        {"fourier", make_fourier},
        {"field_pool", make_field_pool},
        {"polyphase", make_polyphase},
        {"maxpool", make_pool<MaxPool>},
        {"avgpool", make_pool<AvgPool>},
        {"residual", make_residual},
        {"repeat", make_repeat},
        {"sum", make_sum},
        {"scale", [](Request&) { return std::make_shared<Scale>(); }},
        {"bias", [](Request&) { return std::make_shared<ScalarBias>(); }},
        {"batchnorm", [](Request& r) { return make_norm(Norm::Kind::kBatch, r); }},
        {"layernorm", [](Request& r) { return make_norm(Norm::Kind::kLayer, r); }},
        {"groupnorm", [](Request& r) { return make_norm(Norm::Kind::kGroup, r); }},
        {"dropout", make_dropout},
        {"gelu", make_gelu},
        {"elu", make_elu},
        {"softplus", make_softplus},
        {"global_avgpool",
         [](Request& r) {
           if (r.shape.size() < 2)
             r.table.fail(fmt::format("expected an input [C, ...], got {}", shape_text(r.shape)));
           r.shape = {r.shape[0]};
           return std::make_shared<GlobalAvgPool>();
         }},
        {"flatten",
         [](Request& r) {
           r.shape = {c10::multiply_integers(r.shape)};
           return std::make_shared<Flatten>();
         }},
    };
    for (const auto& kind : Activation::kinds())  // those without keys of their own
      t.emplace(kind, [kind](Request&) { return std::make_shared<Activation>(kind); });
    return t;
  }();
  return table;
}

}  // namespace

Tensor Network::zeros(int64_t n) const {
  auto shape = input_;
  shape.insert(shape.begin(), n);
  const auto weights = parameters();
  return torch::zeros(
      shape, weights.empty() ? torch::TensorOptions() : weights[0].options().requires_grad(false));
}

Tensor Network::forward(const Tensor& x, Tape* tape) const {
  auto expected = input_;
  expected.insert(expected.begin(), x.dim() > 0 ? x.size(0) : 0);
  if (x.sizes() != at::IntArrayRef(expected)) {
    throw UsageError(fmt::format("network input: expected [N, {}], got {}", fmt::join(input_, ", "),
                                 shape_text(x.sizes())));
  }
  return Sequential::forward(laid_out(x), tape);
}

Tensor Network::laid_out(const Tensor& x) const {
  if (x.dim() != 4) return x;
  for (const auto& module : modules())
    if (const auto* layer = dynamic_cast<const Layer*>(module.get()); layer->flattens_images())
      return x;
  const auto last = x.contiguous(at::MemoryFormat::ChannelsLast);
  // Of one channel both layouts are the same numbers in memory; the strides are what layers see.
  const auto c = x.size(1), h = x.size(2), w = x.size(3);
  return c == 1 ? last.as_strided(x.sizes(), {h * w, 1, w, 1}) : last;
}

std::vector<std::string> layer_types() {
  std::vector<std::string> names;
  for (const auto& [name, builder] : builders()) names.push_back(name);
  return names;
}

namespace {

struct Built {
  std::shared_ptr<Network> network;
  std::vector<std::optional<FieldType>> fields;  // behind each layer
};

Built build(const toml::table& table, std::string_view file, int64_t classes) {
  LayerTable reader(table, std::string(file));
  const auto& sizes = reader.list("input");
  if (sizes.empty() || sizes.size() > 3)
    reader.fail(fmt::format(
        "input: expected one to three sizes, [D], [C, L] or [C, H, W], found {}", sizes.size()));
  Shape shape;
  for (const auto& size : sizes) {
    if (!size.is_integer() || size.as_integer()->get() < 1)
      reader.fail(fmt::format("input: expected positive integers, found {}", describe(size)));
    shape.push_back(size.as_integer()->get());
  }
  expect_size(reader, "input", shape);
  auto network = std::make_shared<Network>(shape);
  Signal signal{shape, {}};
  std::vector<std::optional<FieldType>> fields;
  build_sequence(*network, reader.layers("layer"), fmt::format("{}: layer", file), classes, signal,
                 &fields);
  shape = signal.shape;
  reader.finish("top-level");
  if (shape.size() != 1)
    reader.fail(
        fmt::format("the last layer gives {}, expected one vector of outputs; a flatten or "
                    "global_avgpool layer makes one",
                    shape_text(shape)));
  network->set_outputs(shape[0]);
  network->eval();
  named_blocks(*network);
  return {network, fields};
}

Built build(const std::filesystem::path& file, int64_t classes) {
  const auto table = parse_toml_file(file);
  const auto* inner = table["network"].as_table();
  return build(inner ? *inner : table, file.string(), classes);
}

}  // namespace

std::shared_ptr<Network> build_network(const toml::table& table, std::string_view file,
                                       int64_t classes) {
  return build(table, file, classes).network;
}

std::vector<std::optional<FieldType>> layer_fields(const toml::table& network,
                                                   std::string_view file, int64_t classes) {
  return build(network, file, classes).fields;
}

std::shared_ptr<Network> load_network(const std::filesystem::path& file, int64_t classes) {
  return build(file, classes).network;
}

std::vector<std::optional<FieldType>> load_layer_fields(const std::filesystem::path& file,
                                                        int64_t classes) {
  return build(file, classes).fields;
}

}  // namespace evariste
