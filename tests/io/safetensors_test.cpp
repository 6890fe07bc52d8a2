#include "io/safetensors.h"

#include <cstring>

#include "core/error.h"
#include "io/atomic_file.h"
#include "tests/catch.h"
#include "tests/io/temporary_folder.h"

using namespace evariste;

namespace {

template <class T>
SafeTensor tensor(std::string name, std::string dtype, std::vector<int64_t> shape,
                  const std::vector<T>& values) {
  SafeTensor made{std::move(name), std::move(dtype), std::move(shape), {}};
  made.bytes.resize(values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(made.bytes.data(), values.data(), made.bytes.size());
  return made;
}

/// A file with this header and so many bytes of data.
void write_raw(const std::filesystem::path& path, const std::string& header, size_t data_bytes) {
  std::string text(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(text.data(), &length, 8);
  write_text(path, text + header + std::string(data_bytes, '\1'));
}

}  // namespace

TEST_CASE("tensors come back as they were written, aligned", "[io][safetensors]") {
  const TemporaryFolder folder;
  const auto path = folder / "w.safetensors";
  write_safetensors(
      path,
      {tensor<uint8_t>("mask", "BOOL", {3}, {1, 0, 1}),
       tensor<float>("0.weight", "F32", {2, 2}, {1, 2, 3, 4}),
       tensor<double>("scalar", "F64", {}, {0.5}), tensor<int64_t>("none", "I64", {0, 4}, {})},
      {{"made by", "a test"}});
  const auto read = read_safetensors(path);
  REQUIRE(read.size() == 4);
  const auto find = [&](const std::string& name) {
    for (const auto& t : read)
      if (t.name == name) return t;
    throw std::runtime_error(name);
  };
  CHECK(find("0.weight").dtype == "F32");
  CHECK(find("0.weight").shape == std::vector<int64_t>{2, 2});
  CHECK((find("0.weight").bytes == tensor<float>("", "", {}, {1, 2, 3, 4}).bytes));
  CHECK(find("scalar").shape.empty());
  CHECK(find("mask").bytes.size() == 3);
  CHECK(find("none").shape == std::vector<int64_t>{0, 4});
  CHECK(read.back().name == "mask");  // the widest elements first
  CHECK(read_safetensors_metadata(path).at("made by") == "a test");

  uint64_t header = 0;
  std::memcpy(&header, read_file(path).data(), 8);
  CHECK(header % 8 == 0);
}

TEST_CASE("a missing safetensors file is a usage error", "[io][safetensors]") {
  const TemporaryFolder folder;
  CHECK_THROWS_AS(read_safetensors(folder / "none"), UsageError);
}

TEST_CASE("every truncation of a safetensors file is an I/O error", "[io][safetensors]") {
  const TemporaryFolder folder;
  write_safetensors(folder / "w",
                    {tensor<float>("a", "F32", {2}, {1, 2}), tensor<float>("b", "F32", {1}, {3})});
  const auto bytes = read_file(folder / "w");
  for (size_t size = 0; size < bytes.size(); ++size) {
    write_text(folder / "cut", bytes.substr(0, size));
    CAPTURE(size);
    CHECK_THROWS_AS(read_safetensors(folder / "cut"), IoError);
  }
  write_text(folder / "long", bytes + "x");
  CHECK_THROWS_AS(read_safetensors(folder / "long"), IoError);
}

TEST_CASE("a malformed safetensors header says what is wrong", "[io][safetensors]") {
  const TemporaryFolder folder;
  const auto path = folder / "w";
  const auto message = [&](const std::string& header, size_t data_bytes) -> std::string {
    write_raw(path, header, data_bytes);
    try {
      read_safetensors(path);
    } catch (const IoError& error) {
      return error.what();
    }
    return "accepted";
  };
  CHECK(message("{}", 0) == "accepted");
  CHECK_THAT(message("{", 0), Contains("not JSON"));
  CHECK_THAT(message("[1]", 0), Contains("not a JSON object"));
  CHECK_THAT(message(R"({"a": {"dtype": "F32", "shape": [1]}})", 4), Contains("lacks"));
  CHECK_THAT(message(R"({"a": 3})", 4), Contains("lacks"));
  CHECK_THAT(message(R"({"a": {"dtype": "F31", "shape": [1], "data_offsets": [0, 4]}})", 4),
             Contains("unknown dtype \"F31\""));
  CHECK_THAT(message(R"({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 4]}})", 4),
             Contains("should have 12 bytes"));
  CHECK_THAT(message(R"({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}})", 4),
             Contains("\"a\""));
  CHECK_THAT(message(R"({"a": {"dtype": "U8", "shape": [4294967296, 4294967296],
                               "data_offsets": [0, 0]}})",
                     0),
             Contains("\"a\""));  // the product overflows to 0
  CHECK_THAT(message(R"({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
                         "b": {"dtype": "U8", "shape": [4], "data_offsets": [2, 6]}})",
                     6),
             Contains("overlap"));
  CHECK_THAT(message(R"({"a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}})", 2),
             Contains("a hole"));
  CHECK_THAT(message(R"({"__metadata__": {"a": 1}})", 0), Contains("__metadata__"));

  std::string huge(8, '\xff');  // a header longer than any file
  write_text(path, huge);
  CHECK_THROWS_WITH(read_safetensors(path), Contains("a header of 18446744073709551615 bytes"));
}

TEST_CASE("tensors that contradict themselves are not written", "[io][safetensors]") {
  const TemporaryFolder folder;
  const auto a = tensor<float>("a", "F32", {2}, {1, 2});
  auto wrong = a;
  wrong.shape = {3};
  CHECK_THROWS_WITH(write_safetensors(folder / "w", {wrong}), Contains("has 8 bytes, expected 12"));
  CHECK_THROWS_WITH(write_safetensors(folder / "w", {a, a}), Contains("\"a\" is taken"));
  wrong = a;
  wrong.dtype = "F33";
  CHECK_THROWS_WITH(write_safetensors(folder / "w", {wrong}), Contains("did you mean"));
  CHECK(folder.file_count() == 0);
}
