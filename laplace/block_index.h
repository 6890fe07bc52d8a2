// Which of a curvature's blocks stands for a block that backward reports.
#pragma once

#include <unordered_map>

#include "laplace/block.h"

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

}  // namespace evariste
