#include "train/checkpoint.h"

#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/serialization/import_read.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <fstream>

#include "core/error.h"
#include "core/sha256.h"
#include "io/atomic_file.h"

namespace evariste {

void save_state(const std::filesystem::path& path, const State& state) {
  c10::Dict<std::string, torch::Tensor> dict;
  for (const auto& [name, tensor] : state) dict.insert(name, tensor.detach().cpu().contiguous());
  const auto bytes = torch::jit::pickle_save(dict);
  write_atomically(path, std::string_view(bytes.data(), bytes.size()));
}

State load_state(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw UsageError(fmt::format("{}: no such state", path.string()));
  try {
    State state;
    // Not pickle_load of the bytes: of a damaged file it follows offsets beyond their end.
    caffe2::serialize::PyTorchStreamReader reader(&in);
    const auto value = torch::jit::readArchiveAndTensors("data", "", "", c10::nullopt, c10::nullopt,
                                                         c10::nullopt, reader);
    for (const auto& item : value.toGenericDict())
      state[item.key().toStringRef()] = item.value().toTensor();
    return state;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception&) {
    throw IoError(
        fmt::format("{}: the state is damaged or not one of ours ({} bytes); remove it to "
                    "start afresh",
                    path.string(), std::filesystem::file_size(path)));
  }
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
