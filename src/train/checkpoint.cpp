#include "train/checkpoint.h"

#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/serialization/import_read.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <fstream>
#include <sstream>

#include "core/error.h"
#include "core/sha256.h"
#include "io/atomic_file.h"

namespace evariste {
namespace {

std::vector<char> to_bytes(const State& state) {
  c10::Dict<std::string, torch::Tensor> dict;
  for (const auto& [name, tensor] : state) dict.insert(name, tensor.detach().cpu().contiguous());
  return torch::jit::pickle_save(dict);
}

State from_bytes(std::istream& in) {
  State state;
  // Not pickle_load of the bytes: of a damaged file it follows offsets beyond their end.
  caffe2::serialize::PyTorchStreamReader reader(&in);
  const auto value = torch::jit::readArchiveAndTensors("data", "", "", c10::nullopt, c10::nullopt,
                                                       c10::nullopt, reader);
  for (const auto& item : value.toGenericDict())
    state[item.key().toStringRef()] = item.value().toTensor();
  return state;
}

}  // namespace

void save_state(const std::filesystem::path& path, const State& state) {
  const auto bytes = to_bytes(state);
  write_atomically(path, std::string_view(bytes.data(), bytes.size()));
}

State load_state(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw UsageError(fmt::format("{}: no such state", path.string()));
  try {
    return from_bytes(in);
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception&) {
    throw IoError(
        fmt::format("{}: the state is damaged or not one of ours ({} bytes); remove it to "
                    "start afresh",
                    path.string(), std::filesystem::file_size(path)));
  }
}

State broadcast(const Processes& processes, const State& state) {
  const auto mine = processes.rank() == 0 ? to_bytes(state) : std::vector<char>();
  auto size = torch::full({1}, static_cast<int64_t>(mine.size()), torch::kInt64);
  processes.broadcast(size, 0);
  auto bytes = torch::empty({size.item<int64_t>()}, torch::kUInt8);
  std::copy(mine.begin(), mine.end(), bytes.data_ptr<uint8_t>());
  processes.broadcast(bytes, 0);
  if (processes.rank() == 0) return state;
  std::istringstream in(tensor_text(bytes));
  return from_bytes(in);
}

torch::Tensor text_tensor(const std::string& text) {
  auto out = torch::empty({static_cast<int64_t>(text.size())}, torch::kUInt8);
  std::copy(text.begin(), text.end(), out.data_ptr<uint8_t>());
  return out;
}

std::string tensor_text(const torch::Tensor& tensor) {
  const auto flat = tensor.to(torch::kUInt8).contiguous();
  const auto* data = flat.data_ptr<uint8_t>();
  return {data, data + flat.numel()};
}

}  // namespace evariste
