// state.pt: what comes back, and what is refused.
#include "tests/catch.h"

#include <fstream>

#include "core/error.h"
#include "tests/io/temporary_folder.h"
#include "train/checkpoint.h"

using namespace evariste;

namespace {

State example() {
  return {{"weight", torch::arange(6, torch::kFloat32).view({2, 3})},
          {"precise", torch::tensor(1.0 / 3, torch::kFloat64)},
          {"count", torch::tensor(int64_t{1} << 60)},
          {"empty", torch::empty({0})},
          {"transposed", torch::arange(6, torch::kFloat64).view({2, 3}).t()},
          {"not a number", torch::full({2}, std::numeric_limits<double>::quiet_NaN())},
          {"text", text_tensor("")}};
}

std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

TEST_CASE("a state comes back with its names, types, shapes and bits", "[checkpoint]") {
  const TemporaryFolder folder;
  save_state(folder / "state.pt", example());
  save_state(folder / "state.pt", example());  // replaces
  const auto back = load_state(folder / "state.pt");
  REQUIRE(back.size() == example().size());
  for (const auto& [name, tensor] : example()) {
    CAPTURE(name);
    const auto found = back.at(name);
    CHECK(found.scalar_type() == tensor.scalar_type());
    CHECK(found.sizes() == tensor.sizes());
    CHECK(at::allclose(found, tensor, 0, 0, /*equal_nan=*/true));
  }
  CHECK(folder.file_count() == 1);
}

TEST_CASE("a missing state is wrong use, a damaged one an I/O error that names the file",
          "[checkpoint]") {
  const TemporaryFolder folder;
  const auto path = folder / "state.pt";
  CHECK_THROWS_AS(load_state(path), UsageError);
  save_state(path, example());
  const auto whole = bytes_of(path);
  for (const size_t kept :
       {size_t{0}, size_t{1}, size_t{40}, whole.size() / 2, whole.size() - 100, whole.size() - 1}) {
    CAPTURE(kept);
    write_text(path, whole.substr(0, kept));
    CHECK_THROWS_AS(load_state(path), IoError);
    CHECK_THROWS_WITH(load_state(path), Contains(path.string()) && Contains("damaged"));
  }
  write_text(path, "no state at all, but some text that is long enough to look like one\n");
  CHECK_THROWS_AS(load_state(path), IoError);
}

TEST_CASE("text passes through a tensor unchanged", "[checkpoint]") {
  const std::vector<std::string> texts = {"", "0", "Évariste\n\ttab", std::string("\0\xff", 2)};
  for (const auto& text : texts) CHECK(tensor_text(text_tensor(text)) == text);
}
