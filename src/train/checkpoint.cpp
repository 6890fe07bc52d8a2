#include "train/checkpoint.h"

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
  const std::vector<char> bytes((std::istreambuf_iterator<char>(in)), {});
  try {
    State state;
    const auto value = torch::jit::pickle_load(bytes);
    for (const auto& item : value.toGenericDict())
      state[item.key().toStringRef()] = item.value().toTensor();
    return state;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception&) {
    throw IoError(
        fmt::format("{}: the state is damaged or not one of ours ({} bytes); remove it to "
                    "start afresh",
                    path.string(), bytes.size()));
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
