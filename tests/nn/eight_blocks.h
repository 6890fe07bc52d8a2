// The eight-block networks of layer-wise equivariance learning (van der Ouderaa et al. 2023), as
// network files: channels alpha (1,2,2,4,4,8,8,16), strides 1,2,1,2,1,2,2,2 from 32x32 to 1x1, then
// a head 16 alpha - 64 alpha - C.
#pragma once

#include <fmt/format.h>

#include <array>
#include <string>
#include <vector>

namespace evariste {

/// paths: of "conv", "fc", "factored_fc"; more than one are averaged.
inline std::string eight_block_network(const std::vector<std::string>& paths, int64_t in_channels,
                                       int64_t alpha, int64_t classes) {
  constexpr std::array<int64_t, 8> kWidths = {1, 2, 2, 4, 4, 8, 8, 16};
  constexpr std::array<int64_t, 8> kStrides = {1, 2, 1, 2, 1, 2, 2, 2};
  std::string layers;
  for (size_t block = 0; block < 8; ++block) {
    const auto out = alpha * kWidths[block], stride = kStrides[block];
    std::vector<std::string> maps;
    for (const auto& path : paths) {
      if (path == "conv") {
        auto conv = fmt::format(
            "{{ type = 'conv', out = {}, kernel = 3, padding = 1, padding_mode = 'circular' }}",
            out);
        if (stride > 1) conv += fmt::format(", {{ type = 'polyphase', stride = {} }}", stride);
        maps.push_back(paths.size() > 1 ? "[" + conv + "]" : conv);
      } else {
        maps.push_back(fmt::format("{{ type = '{}', out = {}, stride = {} }}", path, out, stride));
      }
    }
    layers += paths.size() > 1 ? fmt::format("{{ type = 'sum', of = [{}, {}] }}", maps[0], maps[1])
                               : maps[0];
    layers += ", { type = 'relu' }, ";
  }
  return fmt::format(
      "input = [{}, 32, 32]\nlayer = [{}{{ type = 'flatten' }}, {{ type = 'linear', out = {} }}, "
      "{{ type = 'relu' }}, {{ type = 'linear', out = {} }}]",
      in_channels, layers, 64 * alpha, classes);
}

}  // namespace evariste
