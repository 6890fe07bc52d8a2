#include "nn/network.h"

#include "core/error.h"
#include "core/nearest.h"
#include "io/config.h"
#include "nn/affine.h"
#include "nn/build_layer.h"
#include "nn/concat.h"
#include "nn/equivariance.h"
#include "nn/pointwise.h"

namespace evariste {

using namespace network_file;

namespace {

using Builder = std::function<Made(Request&)>;

const std::map<std::string, Builder>& builders();

bool are_same(const std::optional<FieldType>& a, const std::optional<FieldType>& b) {
  return a && b && a->text() == b->text();
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
    kernel = r.table.sizes<2>("kernel", {}, 1);
    stride = r.table.sizes<2>("stride", kernel, 1);
    padding = r.table.sizes<2>("padding", ConvGeometry::all(0), 0);
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

/// Pathway k of "of", a layer or a list of layers, and what comes out of it.
std::pair<Made, Signal> make_pathway(const Request& r, const toml::node& entry, size_t k) {
  Signal signal{r.shape, r.fields};
  const auto place = fmt::format("{}.of[{}]", r.table.place(), k);
  if (const auto* list = entry.as_array()) {
    auto path = std::make_shared<Sequential>();
    build_sequence(*path, *list, place, r.classes, signal);
    return {path, signal};
  }
  Made layer = build_layer(entry, place, r.classes, signal);
  return {layer, signal};
}

Made make_sum(Request& r) {
  const auto scale = r.table.number("scale", 0, "a finite number other than 0",
                                    [](double value) { return value != 0; });
  auto layer = std::make_shared<Sum>(scale);
  const auto& paths = r.table.layers("of");
  Signal result;
  for (size_t k = 0; k < paths.size(); ++k) {
    auto [path, signal] = make_pathway(r, paths[k], k);
    layer->append(path);
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

/// Kinds of one name side by side are one.
void append_fields(FieldType& to, const FieldType& more) {
  for (const auto& kind : more.kinds) {
    if (!to.kinds.empty() && to.kinds.back().name == kind.name)
      to.kinds.back().count += kind.count;
    else
      to.kinds.push_back(kind);
  }
}

Made make_concat(Request& r) {
  auto layer = std::make_shared<Concat>();
  const auto& paths = r.table.layers("of");
  Signal result;
  for (size_t k = 0; k < paths.size(); ++k) {
    auto [path, signal] = make_pathway(r, paths[k], k);
    layer->append(path);
    if (k == 0) {
      result = signal;
      continue;
    }
    const bool fits =
        signal.shape.size() == result.shape.size() &&
        std::equal(signal.shape.begin() + 1, signal.shape.end(), result.shape.begin() + 1);
    if (!fits)
      r.table.fail(
          fmt::format("pathway {} gives {}, pathway 0 gives {}: channels go one behind "
                      "the other where all other sides are equal",
                      k, shape_text(signal.shape), shape_text(result.shape)));
    result.shape[0] += signal.shape[0];
    if (result.fields && signal.fields &&
        result.fields->group->name() == signal.fields->group->name())
      append_fields(*result.fields, *signal.fields);
    else
      result.fields.reset();
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
  const auto affine = r.table.boolean("affine", true);
  if (kind == Norm::Kind::kBatch && r.fields && !r.fields->is_trivial())
    return make_field_norm(r, epsilon, affine, momentum);
  return std::make_shared<Norm>(kind, r.shape, groups, epsilon, affine, momentum);
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
        {"conv3d", make_conv3d},
        {"fc", make_fc},
        {"factored_fc", make_factored_fc},
        {"sparse_conv", make_sparse_conv},
        {"sparse_fc", make_sparse_fc},
        {"group_lift", make_group_lift},
        {"group_conv", make_group_conv},
        {"group_pool", make_group_pool},
        {"steerable_conv", make_steerable_conv},
        {"steerable_conv3d", make_steerable_conv3d},
        {"gated", make_gated},
        {"fourier", make_fourier},
        {"field_pool", make_field_pool},
        {"norm_activation", make_norm_activation},
        {"norm_pool", make_norm_pool},
        {"tensor_product", make_tensor_product},
        {"field_dropout", make_field_dropout},
        {"blurpool", make_blurpool},
        {"upsample", make_upsample},
        {"mask", make_mask},
        {"conv_transpose", make_conv_transpose},
        {"conv_transpose3d", make_conv_transpose3d},
        {"restrict", make_restrict},
        {"steerable_conv_transpose", make_steerable_conv_transpose},
        {"steerable_conv_transpose3d", make_steerable_conv_transpose3d},
        {"polyphase", make_polyphase},
        {"maxpool", make_pool<MaxPool>},
        {"avgpool", make_pool<AvgPool>},
        {"avgpool3d", make_avgpool3d},
        {"residual", make_residual},
        {"repeat", make_repeat},
        {"sum", make_sum},
        {"concat", make_concat},
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
  if (sizes.empty() || sizes.size() > 4)
    reader.fail(fmt::format(
        "input: expected one to four sizes, [D], [C, L], [C, H, W] or [C, D, H, W], found {}",
        sizes.size()));
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
