// Archives of NumPy arrays, written here byte by byte.
#include "data/medmnist.h"

#include <fmt/format.h>

#include <boost/crc.hpp>
#include <boost/iostreams/filter/zlib.hpp>

#include "data/dataset.h"
#include "data/npz.h"
#include "data/transform.h"
#include "tests/data/synthetic_files.h"

using namespace evariste;
using Catch::Matchers::StartsWith;

namespace {

/// `length` bytes, the least first.
std::string little(uint64_t value, int length) {
  std::string bytes;
  for (int i = 0; i < length; ++i) bytes += static_cast<char>(value >> (8 * i));
  return bytes;
}

std::string npy(const std::string& type, const std::string& shape, const std::string& content,
                int version = 1, const std::string& order = "False") {
  auto header =
      fmt::format("{{'descr': '{}', 'fortran_order': {}, 'shape': {}, }}", type, order, shape);
  header += std::string(63 - (header.size() + 10) % 64, ' ') + "\n";
  return "\x93NUMPY" + little(static_cast<uint64_t>(version), 1) + std::string(1, '\0') +
         little(header.size(), version == 1 ? 2 : 4) + header + content;
}

std::string deflated(const std::string& bytes) {
  namespace io = boost::iostreams;
  io::zlib_params raw;
  raw.noheader = true;
  std::string out;
  io::filtering_ostream stream;
  stream.push(io::zlib_compressor(raw));
  stream.push(io::back_inserter(out));
  stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  stream.reset();
  return out;
}

struct Member {
  std::string name, content;
};

/// As numpy writes it: the local header with a zip64 field, the directory without.
std::string zip(const std::vector<Member>& members, bool deflates,
                const std::string& comment = "") {
  std::string out, directory;
  for (const auto& [name, content] : members) {
    boost::crc_32_type crc;
    crc.process_bytes(content.data(), content.size());
    const auto body = deflates ? deflated(content) : content;
    const auto place = out.size(), file = name.size() + 4;
    const auto common = little(20, 2) + little(0, 2) + little(deflates ? 8 : 0, 2) + little(0, 4) +
                        little(crc.checksum(), 4);
    out += "PK\3\4" + common + little(0xffffffff, 4) + little(0xffffffff, 4) + little(file, 2) +
           little(20, 2) + name + ".npy" + little(1, 2) + little(16, 2) +
           little(content.size(), 8) + little(body.size(), 8) + body;
    directory += "PK\1\2" + little(20, 2) + common + little(body.size(), 4) +
                 little(content.size(), 4) + little(file, 2) + little(0, 12) + little(place, 4) +
                 name + ".npy";
  }
  return out + directory + "PK\5\6" + little(0, 4) + little(members.size(), 2) +
         little(members.size(), 2) + little(directory.size(), 4) + little(out.size(), 4) +
         little(comment.size(), 2) + comment;
}

/// n volumes of 28^3 whose labels are 0 1 0 1 ...
std::vector<Member> volumes(int64_t n, const std::string& prefix, const std::string& labels) {
  return {{prefix + "_images", npy("|u1", fmt::format("({}, 28, 28, 28)", n),
                                   pixels(static_cast<size_t>(n) * 28 * 28 * 28))},
          {prefix + "_labels", labels}};
}

std::string byte_labels(int64_t n) {
  std::string bytes;
  for (int64_t i = 0; i < n; ++i) bytes += static_cast<char>(i % 2);
  return npy("|u1", fmt::format("({}, 1)", n), bytes);
}

std::string long_labels(const std::vector<int64_t>& labels) {
  std::string bytes;
  for (const auto label : labels) bytes += little(static_cast<uint64_t>(label), 8);
  return npy("<i8", fmt::format("({}, 1)", labels.size()), bytes, 2);
}

std::vector<Member> both(const std::vector<Member>& train, const std::vector<Member>& test) {
  auto all = train;
  all.insert(all.end(), test.begin(), test.end());
  return all;
}

std::string archive_error(const std::string& bytes) {
  return error_of([&] { (void)parse_npz(bytes, "a", "file"); });
}

}  // namespace

TEST_CASE("arrays are read from stored and from deflated members, of both header versions",
          "[data][medmnist]") {
  for (const bool deflates : {false, true})
    for (const int version : {1, 2, 3}) {
      CAPTURE(deflates, version);
      const auto bytes =
          zip({{"b", npy("|u1", "(3,)", "xyz", version)},
               {"a", npy("<u1", "(2, 3)", pixels(6), version)},
               {"c", npy("<i8", "()", little(static_cast<uint64_t>(-5), 8), version)}},
              deflates, version == 2 ? "PK\5 a comment" : "");
      const auto a = parse_npz(bytes, "a", "file");
      CHECK(a.scalar_type() == torch::kUInt8);
      CHECK(torch::equal(a, (7 * torch::arange(6)).view({2, 3}).to(torch::kUInt8)));
      CHECK(parse_npz(bytes, "b", "file")[2].item<int>() == 'z');
      CHECK(parse_npz(bytes, "c", "file").item<int64_t>() == -5);
      CHECK_THAT(error_of([&] { (void)parse_npz(bytes, "d", "file"); }),
                 StartsWith("4: file: has no array d"));
    }
}

TEST_CASE("a damaged archive is an error wherever it is cut and whichever byte is wrong",
          "[data][medmnist]") {
  for (const bool deflates : {false, true}) {
    const auto whole = zip({{"a", npy("|u1", "(300,)", pixels(300))}}, deflates);
    const auto expected = parse_npz(whole, "a", "file");
    for (size_t length = 0; length < whole.size(); ++length) {
      CAPTURE(deflates, length);
      CHECK_THAT(archive_error(whole.substr(0, length)), StartsWith("4: file: "));
    }
    for (size_t place = 0; place < whole.size(); ++place) {
      CAPTURE(deflates, place);
      auto damaged = whole;
      damaged[place] ^= 0x41;
      auto found = expected;
      const auto error = error_of([&] { found = parse_npz(damaged, "a", "file"); });
      // An error of a damaged file, or a byte that nothing reads.
      CHECK((error.empty() || error.starts_with("4: file: ")));
      CHECK(torch::equal(found, expected));
    }
  }
}

TEST_CASE("arrays of other types and orders are refused", "[data][medmnist]") {
  const auto error = [](const std::string& member) {
    return archive_error(zip({{"a", member}}, false));
  };
  CHECK_THAT(error(npy("<f4", "(1,)", "abcd")), StartsWith("4: file: a: expected the type"));
  CHECK_THAT(error(npy("|u1", "(2, 2)", "abcd", 1, "True")), Contains("C order"));
  CHECK_THAT(error(npy("|u1", "(2, 3)", "abcd")), Contains("announces [2, 3] but 4 bytes follow"));
  CHECK_THAT(error(npy("|u1", "(4294967296, 4294967296, 16)", "abcd")), Contains("4 bytes follow"));
  CHECK_THAT(error("no array"), Contains("not a .npy array"));
  CHECK_THAT(error(npy("|u1", "(1,)", "a").substr(0, 20)), Contains("truncated"));
}

TEST_CASE("a set of MedMNIST loads by its name, of volumes", "[data][medmnist]") {
  const TemporaryFolder root;
  const auto file = root.path() / "medmnist/nodulemnist3d.npz";
  const auto train = volumes(3, "train", byte_labels(3));
  write_file(file, zip(both(train, volumes(2, "test", long_labels({1, 0}))), true));
  const auto set = load_dataset("nodulemnist3d", root.path(), Split::Train);
  CHECK(set.x.sizes() == torch::IntArrayRef({3, 1, 28, 28, 28}));
  CHECK(set.x[2][0][27][27][27].item<int>() == (7 * (3 * 28 * 28 * 28 - 1)) % 251);
  CHECK(torch::equal(set.y, torch::tensor({0, 1, 0}, torch::kInt64)));
  CHECK(set.sha256.count("nodulemnist3d.npz") == 1);
  CHECK(sample_kind("nodulemnist3d") == SampleKind::kVolume);
  const auto test = load_dataset("nodulemnist3d", root.path(), Split::Test);
  CHECK(torch::equal(test.y, torch::tensor({1, 0}, torch::kInt64)));
  const auto x = normalised(set).x;  // 0 -> -1, 255 -> 1
  CHECK(x.flatten()[0].item<float>() == Approx(-1));

  const auto error = [&](const std::vector<Member>& test_members) {
    write_file(file, zip(both(train, test_members), false));
    return error_of([&] { (void)load_dataset("nodulemnist3d", root.path(), Split::Test); });
  };
  CHECK_THAT(error(volumes(2, "test", byte_labels(3))),
             StartsWith("4: ") && Contains("test_labels: expected [2, 1]"));
  CHECK_THAT(error(volumes(2, "test", long_labels({1, 2}))), Contains("label 2, expected 0 to 1"));
  CHECK_THAT(error(volumes(2, "test", long_labels({1, -1}))),
             Contains("label -1, expected 0 to 1"));
  CHECK_THAT(
      error({{"test_images", npy("|u1", "(2, 3)", "abcdef")}, {"test_labels", byte_labels(2)}}),
      Contains("test_images: expected [N, S, S, S] uint8, found [2, 3]"));
  CHECK_THAT(error({}), Contains("has no array test_images"));
}
