// Builders of what acts on fields of any kind: by their lengths, products, all or nothing.
#include "nn/build_layer.h"
#include "nn/field_dropout.h"
#include "nn/field_length.h"
#include "nn/field_product.h"

namespace evariste::network_file {

Made make_norm_activation(Request& r) {
  const auto in = fields_in(r);
  const auto kind = r.table.choice("activation", NormActivation::kinds());
  const auto bias = r.table.boolean("bias", kind != "squash");
  r.made = in;
  return in_place(r, [&]() -> Made { return std::make_shared<NormActivation>(in, kind, bias); });
}

Made make_norm_pool(Request& r) {
  const auto in = fields_in(r);
  r.shape[0] = in.fields();
  r.made = FieldType::trivial(in.group, r.shape[0]);
  return std::make_shared<FieldLength>(in);
}

Made make_tensor_product(Request& r) {
  const auto in = fields_in(r);
  const auto keep = r.table.boolean("keep", true);
  return in_place(r, [&]() -> Made {
    auto layer = std::make_shared<FieldProduct>(in, keep);
    r.made = layer->out();
    r.shape[0] = layer->out().channels();
    return layer;
  });
}

Made make_field_dropout(Request& r) {
  const auto p =
      r.table.number("p", 0.5, "0 <= p < 1", [](double value) { return value >= 0 && value < 1; });
  if (r.fields) return std::make_shared<FieldDropout>(*r.fields, p);
  return std::make_shared<FieldDropout>(r.shape[0], p);
}

}  // namespace evariste::network_file
