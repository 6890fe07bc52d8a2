// How far a network is from commuting with a group, layer by layer.
#pragma once

#include <optional>

#include "nn/field_type.h"
#include "nn/network.h"

namespace evariste {

/// ||f(h x) - h f(x)|| / ||f(x)|| over samples and pixels, f the layers up to one.
///
/// h turns images or volumes, exactly where it moves pixels to pixels, else by linear interpolation
/// within the disc or ball that fits into them; it acts on channels as the layer's fields say, and
/// not at all on those of layers without fields: their error is that of scalar feature maps, or of
/// an output that should be invariant.
struct EquivarianceErrors {
  std::vector<std::string> layers;  ///< "0", "1" ...: of the network file
  std::vector<Element> elements;
  Tensor error;  ///< [layers, elements]; NaN where h does not act on a layer's fields
  /// The same for images turned by h and back again, which should change nothing: what the grid
  /// alone costs. An error near it says nothing against the network.
  Tensor floor;
};

/// x [n, C, S, S] or [n, C, S, S, S] and what its channels transform by; `fields` of every layer as
/// layer_fields gives them. Throws UsageError for networks of other inputs.
EquivarianceErrors equivariance_errors(const Network& network,
                                       const std::vector<std::optional<FieldType>>& fields,
                                       const FieldType& input, const Tensor& x,
                                       const std::vector<Element>& elements);

/// All elements of a finite group but the identity; of an infinite one of the plane `rotations` of
/// them, equally spaced, and as many reflections where it has any; in space as many random ones.
std::vector<Element> elements_to_test(const Group& group, int64_t rotations);

/// What the channels behind every layer of a network file transform by, as build_network finds it;
/// nothing where that is not known.
std::vector<std::optional<FieldType>> layer_fields(const toml::table& network,
                                                   std::string_view file, int64_t classes = 0);
std::vector<std::optional<FieldType>> load_layer_fields(const std::filesystem::path& file,
                                                        int64_t classes = 0);

}  // namespace evariste
