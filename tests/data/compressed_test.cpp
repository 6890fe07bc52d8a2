#include "data/compressed.h"

#include "core/sha256.h"
#include "data/checksums.h"
#include "data/dataset.h"
#include "tests/data/synthetic_files.h"

using namespace evariste;
namespace fs = std::filesystem;

TEST_CASE("plain, .gz and .xz files give the same bytes, also several chunks long", "[data]") {
  const TemporaryFolder folder;
  for (const size_t size : {size_t{1}, size_t{1000}, size_t{3'000'000}}) {
    const auto bytes = pixels(size);
    for (const std::string suffix : {"", ".gz", ".xz"}) {
      CAPTURE(size, suffix);
      const auto file = folder.path() / ("file" + suffix);
      write_file(file, packed(bytes, suffix));
      CHECK(read_decompressed(file) == bytes);
    }
  }
}

TEST_CASE("concatenated .gz and .xz members are read through", "[data]") {
  const TemporaryFolder folder;
  for (const std::string suffix : {".gz", ".xz"}) {
    write_file(folder.path() / ("file" + suffix), packed("one ", suffix) + packed("two", suffix));
    CHECK(read_decompressed(folder.path() / ("file" + suffix)) == "one two");
  }
}

TEST_CASE("the plain file is preferred to .gz, and that to .xz", "[data]") {
  const TemporaryFolder folder;
  const auto name = folder.path() / "file";
  CHECK_FALSE(find_compressed(name));
  fs::create_directory(name);  // a folder of that name is no file
  CHECK_FALSE(find_compressed(name));
  fs::remove(name);
  for (const std::string suffix : {".xz", ".gz", ""}) {
    auto file = name;
    write_file(file += suffix, packed("x", suffix));
    CHECK(find_compressed(name) == file);
  }
}

TEST_CASE("no truncation and no damage of a compressed file goes unnoticed", "[data]") {
  const TemporaryFolder folder;
  std::mt19937 random(1);
  std::string bytes(20000, '\0');
  for (auto& byte : bytes) byte = static_cast<char>(random() % 8);
  for (const std::string suffix : {".gz", ".xz"}) {
    const auto whole = packed(bytes, suffix);
    const auto file = folder.path() / ("file" + suffix);
    const auto reads_wrong = [&](const std::string& content) {
      write_file(file, content);
      const auto error = error_of([&] { (void)read_decompressed(file); });
      return error.rfind("4: " + file.string() + ": truncated or damaged", 0) == 0;
    };
    for (const size_t cut :
         {whole.size(), whole.size() - 1, whole.size() / 2, size_t{13}, size_t{1}}) {
      CAPTURE(suffix, cut);
      CHECK(reads_wrong(whole.substr(cut)));                    // the front is missing
      CHECK(reads_wrong(whole.substr(0, whole.size() - cut)));  // the end is missing
    }
    for (size_t place = 20; place + 8 < whole.size(); place += 997) {  // past the free .gz fields
      CAPTURE(suffix, place);
      auto flipped = whole;
      flipped[place] = static_cast<char>(flipped[place] ^ 0x10);
      CHECK(reads_wrong(flipped));
    }
    CHECK(reads_wrong("this is not compressed at all"));
    CHECK(reads_wrong(whole + "junk"));
  }
}

TEST_CASE("the built-in checksums are those of data/SHA256SUMS", "[data]") {
  std::ifstream in(fs::path(EVARISTE_SOURCE_DIR) / "data/SHA256SUMS");
  std::map<std::string, std::string> sums;
  for (std::string sum, file; in >> sum >> file;) sums[file] = sum;
  size_t checked = 0;
  for (const auto& entry : builtin_datasets()) {
    for (const auto& [file, sum] : entry.sha256) {
      CAPTURE(entry.name, file);
      CHECK(sums[entry.name + "/" + file] == sum);
      ++checked;
    }
  }
  CHECK(checked == 4 + 4 + 6);
}
