// The eight-block networks of layer-wise equivariance learning (van der Ouderaa et al. 2023), as
// network files: channels alpha (1,2,2,4,4,8,8,16), strides 1,2,1,2,1,2,2,2 from 32x32 to 1x1, then
// a head 16 alpha - 64 alpha - C.
#pragma once

#include <fmt/format.h>

#include <array>
#include <string>
#include <vector>

namespace evariste {

/// One map of a block, to `out` channels: what its pathway is called, in TOML, without subsampling.
inline std::string map_text(const std::string& path, int64_t out, int64_t in, int64_t stride) {
  const std::string circular = "padding = 1, padding_mode = 'circular'";
  if (path == "conv")
    return fmt::format("{{ type = 'conv', out = {}, kernel = 3, {} }}", out, circular);
  if (path.starts_with("sparse_conv"))  // "sparse_conv 0.8"
    return fmt::format("{{ type = 'sparse_conv', out = {}, kernel = 3, anchors = {}, {} }}", out,
                       path.substr(12), circular);
  if (path == "group_conv")
    return fmt::format("{{ type = 'group_conv', out = {}, {} }}", out, circular);
  const auto depthwise = fmt::format(
      "{{ type = 'group_conv', out = {0}, groups = {0}, mix = false, {1} }}", in, circular);
  if (path == "separable")
    return fmt::format("{}, {{ type = 'group_conv', out = {}, kernel = 1 }}", depthwise, out);
  if (path == "depth_separable")
    return fmt::format(
        "{0}, {{ type = 'group_conv', out = {1}, kernel = 1, groups = {1} }}, "
        "{{ type = 'group_conv', out = {2}, kernel = 1, mix = false }}",
        depthwise, in, out);
  return fmt::format("{{ type = '{}', out = {}, stride = {} }}", path, out, stride);
}

/// paths: as map_text has them; more than one are averaged. Group convolutions stand alone, between
/// a lift and a pool.
inline std::string eight_block_network(const std::vector<std::string>& paths, int64_t in_channels,
                                       int64_t alpha, int64_t classes) {
  constexpr std::array<int64_t, 8> kWidths = {1, 2, 2, 4, 4, 8, 8, 16};
  constexpr std::array<int64_t, 8> kStrides = {1, 2, 1, 2, 1, 2, 2, 2};
  const bool groups = paths[0] == "group_conv" || paths[0].ends_with("separable");
  std::string layers = groups ? "{ type = 'group_lift' }, " : "";
  auto in = in_channels;
  for (size_t block = 0; block < 8; ++block) {
    const auto out = alpha * kWidths[block], stride = kStrides[block];
    std::vector<std::string> maps;
    for (const auto& path : paths) {
      auto map = map_text(path, out, in, stride);
      const bool subsamples = path.ends_with("fc");
      if (stride > 1 && !subsamples)
        map += fmt::format(", {{ type = 'polyphase', stride = {} }}", stride);
      maps.push_back(paths.size() > 1 && !subsamples ? "[" + map + "]" : map);
    }
    layers += paths.size() > 1 ? fmt::format("{{ type = 'sum', of = [{}, {}] }}", maps[0], maps[1])
                               : maps[0];
    layers += ", { type = 'relu' }, ";
    in = out;
  }
  if (groups) layers += "{ type = 'group_pool' }, ";
  return fmt::format(
      "input = [{}, 32, 32]\nlayer = [{}{{ type = 'flatten' }}, {{ type = 'linear', out = {} }}, "
      "{{ type = 'relu' }}, {{ type = 'linear', out = {} }}]",
      in_channels, layers, 64 * alpha, classes);
}

/// The mixer of FC, CONV and GCONV over four copies (alpha = 2): a third of each, convolutions
/// subsampled together so that their phase is one.
inline std::string mixer_network(int64_t in_channels, int64_t classes) {
  constexpr std::array<int64_t, 8> kWidths = {2, 4, 4, 8, 8, 16, 16, 32};
  constexpr std::array<int64_t, 8> kStrides = {1, 2, 1, 2, 1, 2, 2, 2};
  std::string layers;
  for (size_t block = 0; block < 8; ++block) {
    const auto out = kWidths[block], stride = kStrides[block];
    auto convolutions = fmt::format(
        "{{ type = 'sum', of = [{}, {{ type = 'group_conv', out = {}, mix = false, "
        "padding = 1, padding_mode = 'circular' }}] }}",
        map_text("conv", 4 * out, 0, 1), out);
    if (stride > 1) convolutions += fmt::format(", {{ type = 'polyphase', stride = {} }}", stride);
    layers += fmt::format("{{ type = 'sum', of = [{}, [{}]] }}, {{ type = 'relu' }}, ",
                          map_text("factored_fc", 4 * out, 0, stride), convolutions);
  }
  return fmt::format(
      "input = [{}, 32, 32]\nlayer = [{{ type = 'group_lift' }}, {}{{ type = 'group_pool' }}, "
      "{{ type = 'flatten' }}, {{ type = 'linear', out = 128 }}, {{ type = 'relu' }}, "
      "{{ type = 'linear', out = {} }}]",
      in_channels, layers, classes);
}

}  // namespace evariste
