// Writes the traces of one training into its group of run.h5 (interface: /trace, /blocks,
// /pathways).
#pragma once

#include "io/run_file.h"
#include "train/trainer.h"

namespace evariste {

class Recorder {
 public:
  /// `prefix`: "" for the evidence run, "controls/map/" for a control. Declares what the groups
  /// hold; in a resumed file forgets epochs after `epochs_done`.
  Recorder(RunFile& run, const std::string& prefix, const Trainer& trainer,
           const std::vector<std::string>& pathways, int64_t epochs_done);

  /// `map_shares`: those of the MAP control at the same epoch, or empty.
  void append(const EpochRecord& record, double wall_seconds,
              const std::vector<std::vector<double>>& map_shares);

 private:
  RunFile& run_;
  std::vector<std::pair<std::string, RunFile::Series>> trace_, block_, pathway_;
  std::vector<RunFile::Series> symmetry_;
  RunFile::Dimension trace_epoch_{}, block_epoch_{}, pathway_epoch_{};
  size_t blocks_ = 0, layers_ = 0, paths_ = 0;
};

}  // namespace evariste
