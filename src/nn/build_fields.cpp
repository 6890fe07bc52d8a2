// Builders of layers whose channels are fields, and what the other layers make of fields.
#include "core/error.h"
#include "nn/build_layer.h"
#include "nn/field_activation.h"
#include "nn/field_norm.h"
#include "nn/steerable_convolution.h"

namespace evariste::network_file {
namespace {

/// Layers that leave fields as they are: of any kind, or only where pointwise functions commute
/// with the group, or only of channels that do not transform. Behind all others nothing is known.
enum class Keeps { kAny, kPermutations, kTrivial };
const std::map<std::string, Keeps>& keeps_fields() {
  static const std::map<std::string, Keeps> table = [] {
    std::map<std::string, Keeps> t = {
        {"avgpool", Keeps::kAny},           {"avgpool3d", Keeps::kAny},
        {"global_avgpool", Keeps::kAny},    {"scale", Keeps::kAny},
        {"polyphase", Keeps::kAny},         {"maxpool", Keeps::kPermutations},
        {"blurpool", Keeps::kAny},          {"mask", Keeps::kAny},
        {"bias", Keeps::kPermutations},     {"dropout", Keeps::kPermutations},
        {"gelu", Keeps::kPermutations},     {"elu", Keeps::kPermutations},
        {"softplus", Keeps::kPermutations}, {"batchnorm", Keeps::kAny},
        {"field_dropout", Keeps::kAny},     {"layernorm", Keeps::kTrivial},
        {"groupnorm", Keeps::kTrivial}};
    for (const auto& kind : Activation::kinds()) t.emplace(kind, Keeps::kPermutations);
    return t;
  }();
  return table;
}

}  // namespace

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

FieldType fields_in(Request& r, std::string_view group_key) {
  const auto before = r.fields ? std::optional(r.fields->group->name()) : std::nullopt;
  const auto name = r.table.text(group_key, before);
  const auto words = texts(r, "in");
  return in_place(r, [&] {
    const int dimension = r.fields ? r.fields->group->dimension() : r.shape.size() == 4 ? 3 : 2;
    const auto group = make_group(name, dimension);
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

namespace {

/// Those without keys of their own, relu first.
std::vector<std::string> plain_kinds() {
  std::vector<std::string> out = {"relu"};
  for (const auto& kind : Activation::kinds())
    if (kind != "relu") out.push_back(kind);
  return out;
}

}  // namespace

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

namespace {

/// Behind the check of the input's shape.
template <class Conv>
Made make_steerable(Request& r) {
  const auto in = fields_in(r);
  const auto words = texts(r, "out");
  if (words.empty()) r.table.fail("key \"out\" is missing");
  SteerableOptions options;
  options.kernel = r.table.integer("kernel", 3);
  options.padding = r.table.integer("padding", 0, 0);
  constexpr bool kIsTransposed = requires(typename Conv::Geometry geometry) {
    geometry.output_padding;
  };
  if constexpr (kIsTransposed)
    options.output_padding = r.table.integer("output_padding", 0, 0);
  else
    options.circular = r.table.choice("padding_mode", {"zeros", "circular"}) == "circular";
  if (options.circular && options.padding > *std::min_element(r.shape.begin() + 1, r.shape.end()))
    r.table.fail(fmt::format("padding {} wraps around the input {} more than once", options.padding,
                             shape_text(r.shape)));
  options.stride = r.table.integer("stride", 1);
  options.dilation = r.table.integer("dilation", 1);
  const auto most = std::max(options.stride, options.dilation) - 1;
  if (options.output_padding > most)
    r.table.fail(
        fmt::format("output_padding: expected at most {}, less than stride or dilation, "
                    "found {}",
                    most, options.output_padding));
  if (r.table.any("isotypic")) options.isotypic = r.table.text("isotypic");
  if (r.table.any("degree")) options.degree = static_cast<int>(r.table.integer("degree"));
  if (r.table.any("degree_start")) {
    options.degree_start = r.table.number("degree_start", 0, "0 <= degree_start <= 30",
                                          [](double value) { return value >= 0 && value <= 30; });
    if (!options.degree) r.table.fail("degree_start: expected degree beside it, found none");
  }
  options.bias = r.table.boolean("bias", true);
  return in_place(r, [&]() -> Made {
    const auto out = FieldType::parse(in.group, words);
    Shape kernel(r.shape.size() + 1, options.kernel);
    kernel[0] = out.channels(), kernel[1] = in.channels();
    expect_size(r.table, "kernel", kernel);
    auto layer = std::make_shared<SteerableConv<Conv>>(in, out, options);
    Shape batch = {1};
    batch.insert(batch.end(), r.shape.begin(), r.shape.end());
    const auto size = layer->geometry().output_of(batch);
    if (*std::min_element(size.begin(), size.end()) < 1)
      r.table.fail(kIsTransposed ? fmt::format("padding {} leaves nothing of the output for {}",
                                               options.padding, shape_text(r.shape))
                                 : fmt::format("kernel {} does not fit into the padded input {}",
                                               options.kernel, shape_text(r.shape)));
    r.shape = {out.channels()};
    r.shape.insert(r.shape.end(), size.begin(), size.end());
    r.made = out;
    return layer;
  });
}

}  // namespace

Made make_steerable_conv(Request& r) {
  expect_image(r);
  return make_steerable<ConvBlock>(r);
}

Made make_steerable_conv3d(Request& r) {
  expect_volume(r);
  return make_steerable<VolumeConvBlock>(r);
}

Made make_steerable_conv_transpose(Request& r) {
  expect_image(r);
  return make_steerable<TransposedConvBlock<ConvBlock>>(r);
}

Made make_steerable_conv_transpose3d(Request& r) {
  expect_volume(r);
  return make_steerable<TransposedConvBlock<VolumeConvBlock>>(r);
}

Made make_gated(Request& r) {
  const auto in = fields_in(r);
  const auto kind = r.table.choice("activation", plain_kinds());
  return in_place(r, [&]() -> Made {
    auto layer = std::make_shared<GatedActivation>(in, kind);
    r.made = layer->out();
    r.shape[0] = layer->out().channels();
    return layer;
  });
}

Made make_fourier(Request& r) {
  const auto in = fields_in(r);
  const auto kind = r.table.choice("activation", plain_kinds());
  const auto samples = r.table.integer("samples", 0, 0);
  r.made = in;
  return in_place(r,
                  [&]() -> Made { return std::make_shared<FourierActivation>(in, kind, samples); });
}

Made make_field_norm(Request& r, double epsilon, bool affine, double momentum) {
  r.made = r.fields;
  return in_place(r, [&]() -> Made {
    return std::make_shared<FieldNorm>(*r.fields, r.shape, epsilon, affine, momentum);
  });
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

}  // namespace evariste::network_file
