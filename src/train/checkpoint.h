// state.pt: everything a run needs to go on bit for bit, replaced whole.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include <torch/types.h>

#include "laplace/processes.h"

namespace evariste {

/// Named tensors (numbers as 0-d tensors); Python reads the file with torch.load.
using State = std::map<std::string, torch::Tensor>;

/// Temporary file, sync, rename. Throws IoError.
void save_state(const std::filesystem::path& path, const State& state);
/// Throws UsageError where there is none, IoError where it is damaged.
State load_state(const std::filesystem::path& path);

/// The state of process 0, for all.
State broadcast(const Processes& processes, const State& state);

/// Text as a tensor of bytes, for hashes and names.
torch::Tensor text_tensor(const std::string& text);
std::string tensor_text(const torch::Tensor& tensor);

}  // namespace evariste
