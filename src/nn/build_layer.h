// How network files become layers: what a builder of one type is given, and the builders.
//
// A new type: its builder, declared here, and a line in the list of network.cpp.
#pragma once

#include "core/error.h"
#include "nn/combine.h"
#include "nn/convolution.h"
#include "nn/field_type.h"
#include "nn/layer_table.h"

namespace evariste::network_file {

using Shape = std::vector<int64_t>;

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

/// Refuses what no machine holds before anything is allocated.
void expect_size(const LayerTable& table, std::string_view what, at::IntArrayRef shape);
/// Refuses inputs that are not [C, H, W].
void expect_image(const Request& r);
/// Refuses inputs that are not [C, D, H, W].
void expect_volume(const Request& r);
/// "kernel" k, "padding" and "padding_mode" of a convolution at stride 1 over square kernels.
ConvGeometry square_geometry(Request& r, std::optional<int64_t> kernel);

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
std::vector<std::string> texts(Request& r, std::string_view key);
/// Keys `group_key` and "in" of a layer that takes fields: both may be left out behind a layer that
/// makes some, and "in" where channels do not transform.
FieldType fields_in(Request& r, std::string_view group_key = "group");

/// What a layer leaves of the fields that come in, where its builder has made none: those that
/// commute with the group pass them, behind all others nothing is known. Refuses layers that would
/// not commute with it.
void pass_fields(const LayerTable& table, const std::string& type,
                 const std::optional<FieldType>& before, std::optional<FieldType>& after);

// build_maps.cpp
Made make_linear(Request& r);
Made make_conv(Request& r);
Made make_conv1d(Request& r);
Made make_conv3d(Request& r);
Made make_avgpool3d(Request& r);
Made make_fc(Request& r);
Made make_factored_fc(Request& r);
Made make_sparse_conv(Request& r);
Made make_sparse_fc(Request& r);
Made make_group_lift(Request& r);
Made make_group_conv(Request& r);
Made make_group_pool(Request& r);

// build_fields.cpp
Made make_steerable_conv(Request& r);
Made make_steerable_conv3d(Request& r);
Made make_gated(Request& r);
Made make_fourier(Request& r);
Made make_field_pool(Request& r);
Made make_steerable_conv_transpose(Request& r);
Made make_steerable_conv_transpose3d(Request& r);
/// batchnorm behind a layer that makes fields.
Made make_field_norm(Request& r, double epsilon, bool affine, double momentum);

// build_field_functions.cpp
Made make_norm_activation(Request& r);
Made make_norm_pool(Request& r);
Made make_tensor_product(Request& r);
Made make_field_dropout(Request& r);

// build_spatial.cpp
Made make_blurpool(Request& r);
Made make_upsample(Request& r);
Made make_mask(Request& r);
Made make_conv_transpose(Request& r);
Made make_conv_transpose3d(Request& r);
Made make_restrict(Request& r);

}  // namespace evariste::network_file
