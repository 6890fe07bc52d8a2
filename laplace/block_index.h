// Which of a curvature's blocks stands for a block that backward reports.
#pragma once

#include <unordered_map>

#include "laplace/layer.h"

namespace evariste {

/// A joint block stands for its weight.
class BlockIndex {
 public:
  explicit BlockIndex(const std::vector<const Block*>& blocks) {
    for (size_t m = 0; m < blocks.size(); ++m) {
      const auto* joint = dynamic_cast<const JointBlock*>(blocks[m]);
      index_[joint ? &joint->weight_block() : blocks[m]] = static_cast<int64_t>(m);
    }
  }
  /// Its place in the list, or -1.
  int64_t operator()(const Block& block) const {
    const auto found = index_.find(&block);
    return found == index_.end() ? -1 : found->second;
  }

 private:
  std::unordered_map<const Block*, int64_t> index_;
};

/// Reports the listed blocks, visit(place, x, g), and nothing below the lowest of them. Both
/// outlive the sink.
template <class Visit>
Sink sink_of(const BlockIndex& index, const Visit& visit) {
  Sink sink = [&](const Block& block, const Tensor& x, const Tensor& g) {
    if (const auto m = index(block); m >= 0) visit(static_cast<size_t>(m), x, g);
  };
  sink.wants = [&](const Block& block) { return index(block) >= 0; };
  return sink;
}

}  // namespace evariste
