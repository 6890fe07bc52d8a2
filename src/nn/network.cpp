#include "nn/network.h"

#include <fstream>

#include "core/error.h"
#include "core/nearest.h"
#include "nn/affine.h"
#include "nn/convolution.h"
#include "nn/factored.h"
#include "nn/layer_table.h"
#include "nn/linear.h"
#include "nn/pointwise.h"

namespace evariste {
namespace {

using Shape = std::vector<int64_t>;

/// What a layer builder gets: its table, the shape that comes in; it sets the shape that goes out.
struct Request {
  LayerTable& table;
  Shape shape;
  int64_t classes;
};
using Made = std::shared_ptr<Layer>;
using Builder = std::function<Made(Request&)>;

const std::map<std::string, Builder>& builders();

Made build_layer(const toml::node& node, const std::string& place, int64_t classes, Shape& shape) {
  const auto* table = node.as_table();
  if (!table)
    throw UsageError(
        fmt::format("{}: expected a layer as a table, found {}", place, toml_kind(node)));
  LayerTable reader(*table, place);
  const auto type = reader.text("type");
  const auto found = builders().find(type);
  if (found == builders().end()) reader.fail(unknown_name("layer type", type, layer_types()));
  Request request{reader, shape, classes};
  auto layer = found->second(request);
  reader.finish(type);
  shape = request.shape;
  return layer;
}

void build_sequence(Sequential& sequence, const toml::array& list, const std::string& place,
                    int64_t classes, Shape& shape) {
  for (size_t i = 0; i < list.size(); ++i)
    sequence.append(build_layer(list[i], fmt::format("{}[{}]", place, i), classes, shape));
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
  const auto mode = r.table.text("padding_mode", "zeros");
  if (mode != "zeros" && mode != "circular")
    r.table.fail("padding_mode: " + unknown_name("mode", mode, {"zeros", "circular"}));
  geometry.circular = mode == "circular";
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
  const auto mode = r.table.text("padding_mode", "zeros");
  if (mode != "zeros" && mode != "circular")
    r.table.fail("padding_mode: " + unknown_name("mode", mode, {"zeros", "circular"}));
  geometry.circular = mode == "circular";
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
  r.shape.back() = out;
  return std::make_shared<Linear>(in, out, r.table.boolean("bias", true));
}

/// {D, H/s, W/s} of an fc or factored_fc layer.
Shape subsampled(Request& r) {
  expect_image(r);
  const auto out = r.table.integer("out"), stride = r.table.integer("stride", 1);
  if (r.shape[1] % stride != 0 || r.shape[2] % stride != 0)
    r.table.fail(
        fmt::format("stride {} does not divide the input {}", stride, shape_text(r.shape)));
  return {out, r.shape[1] / stride, r.shape[2] / stride};
}

Made make_fc(Request& r) {
  const auto in = r.shape;
  r.shape = subsampled(r);
  return std::make_shared<FullyConnected>(in, r.shape, r.table.boolean("bias", true));
}

Made make_factored_fc(Request& r) {
  const auto in = r.shape;
  r.shape = subsampled(r);
  return std::make_shared<FactoredFullyConnected>(in, r.shape, r.table.boolean("bias", true));
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
  auto shape = r.shape;
  build_sequence(*layer, r.table.list("layer"), r.table.place() + ".layer", r.classes, shape);
  if (shape != r.shape)
    r.table.fail(fmt::format("the body turns {} into {}, which cannot be added to its input",
                             shape_text(r.shape), shape_text(shape)));
  return layer;
}

Made make_sum(Request& r) {
  const auto scale = r.table.number("scale", 0.0);
  if (r.table.has("scale") && scale == 0) r.table.fail("scale: expected a number other than 0");
  auto layer = std::make_shared<Sum>(scale);
  const auto& paths = r.table.list("of");
  Shape result;
  for (size_t k = 0; k < paths.size(); ++k) {
    auto shape = r.shape;
    const auto place = fmt::format("{}.of[{}]", r.table.place(), k);
    if (const auto* list = paths[k].as_array()) {
      auto path = std::make_shared<Sequential>();
      build_sequence(*path, *list, place, r.classes, shape);
      layer->append(path);
    } else {
      layer->append(build_layer(paths[k], place, r.classes, shape));
    }
    if (k > 0 && shape != result)
      r.table.fail(fmt::format("pathway {} gives {}, pathway 0 gives {}", k, shape_text(shape),
                               shape_text(result)));
    result = shape;
  }
  r.shape = result;
  return layer;
}

Made make_norm(Norm::Kind kind, Request& r) {
  const auto groups = kind == Norm::Kind::kGroup ? r.table.integer("groups") : 1;
  const double momentum = kind == Norm::Kind::kBatch ? r.table.number("momentum", 0.1) : 0;
  return std::make_shared<Norm>(kind, r.shape, groups, r.table.number("eps", 1e-5),
                                r.table.boolean("affine", true), momentum);
}

const std::map<std::string, Builder>& builders() {
  static const std::map<std::string, Builder> table = [] {
    std::map<std::string, Builder> t = {
        {"linear", make_linear},
        {"conv", make_conv},
        {"conv1d", make_conv1d},
        {"fc", make_fc},
        {"factored_fc", make_factored_fc},
        {"polyphase", make_polyphase},
        {"maxpool", make_pool<MaxPool>},
        {"avgpool", make_pool<AvgPool>},
        {"residual", make_residual},
        {"sum", make_sum},
        {"scale", [](Request&) { return std::make_shared<Scale>(); }},
        {"bias", [](Request&) { return std::make_shared<ScalarBias>(); }},
        {"batchnorm", [](Request& r) { return make_norm(Norm::Kind::kBatch, r); }},
        {"layernorm", [](Request& r) { return make_norm(Norm::Kind::kLayer, r); }},
        {"groupnorm", [](Request& r) { return make_norm(Norm::Kind::kGroup, r); }},
        {"dropout",
         [](Request& r) {
           const auto p = r.table.number("p", 0.5);
           if (!(p >= 0 && p < 1)) r.table.fail(fmt::format("p: expected 0 <= p < 1, found {}", p));
           return std::make_shared<Dropout>(p);
         }},
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
    for (const auto& kind : Activation::kinds())
      t[kind] = [kind](Request&) { return std::make_shared<Activation>(kind); };
    return t;
  }();
  return table;
}

}  // namespace

Tensor Network::forward(const Tensor& x, Tape* tape) const {
  auto expected = input_;
  expected.insert(expected.begin(), x.dim() > 0 ? x.size(0) : 0);
  if (x.sizes() != at::IntArrayRef(expected)) {
    throw UsageError(fmt::format("network input: expected [N, {}], got {}", fmt::join(input_, ", "),
                                 shape_text(x.sizes())));
  }
  return Sequential::forward(x, tape);
}

std::vector<std::string> layer_types() {
  std::vector<std::string> names;
  for (const auto& [name, builder] : builders()) names.push_back(name);
  return names;
}

std::shared_ptr<Network> build_network(const toml::table& table, std::string_view file,
                                       int64_t classes) {
  LayerTable reader(table, std::string(file));
  const auto& sizes = reader.list("input");
  Shape shape;
  for (const auto& size : sizes) {
    if (!size.is_integer() || size.as_integer()->get() < 1)
      reader.fail("input: expected positive integers [C, H, W] or [D]");
    shape.push_back(size.as_integer()->get());
  }
  if (shape.size() > 3) reader.fail("input: expected [C, H, W], [C, L] or [D]");
  auto network = std::make_shared<Network>(shape);
  build_sequence(*network, reader.list("layer"), fmt::format("{}: layer", file), classes, shape);
  reader.finish("network file's top");
  if (shape.size() != 1)
    reader.fail(
        fmt::format("the last layer gives {}, expected one vector of outputs; a flatten or "
                    "global_avgpool layer makes one",
                    shape_text(shape)));
  network->set_outputs(shape[0]);
  network->eval();
  named_blocks(*network);
  return network;
}

std::shared_ptr<Network> load_network(const std::filesystem::path& file) {
  std::ifstream in(file);
  if (!in) throw UsageError(fmt::format("{}: no such network file", file.string()));
  try {
    const auto table = toml::parse(in, file.string());
    // A network may be the file, or the [network] table of an experiment's.
    const auto* inner = table["network"].as_table();
    return build_network(inner ? *inner : table, file.string());
  } catch (const toml::parse_error& e) {
    throw UsageError(fmt::format("{}:{}: {}", file.string(), e.source().begin.line,
                                 std::string(e.description())));
  }
}

}  // namespace evariste
