#include "data/dataset.h"

#include "data/cifar.h"
#include "data/idx.h"
#include "data/transform.h"
#include "tests/data/synthetic_files.h"

using namespace evariste;
using Catch::Matchers::StartsWith;
namespace fs = std::filesystem;

namespace {
const fs::path kRepositoryData = fs::path(EVARISTE_SOURCE_DIR) / "data";
}

TEST_CASE("an IDX set loads alike from plain, .gz and .xz files", "[data]") {
  for (const std::string suffix : {"", ".gz", ".xz"}) {
    CAPTURE(suffix);
    const TemporaryFolder root;
    write_idx_set(root.path() / "mini/mnist-1k", 23, suffix);
    const auto set = load_dataset("mini/mnist-1k", root.path(), Split::Train);
    CHECK(set.name == "mini/mnist-1k");
    CHECK(set.x.sizes() == torch::IntArrayRef({23, 1, 28, 28}));
    CHECK(set.x.scalar_type() == torch::kUInt8);
    CHECK(set.x[22][0][27][27].item<int>() == (7 * (23 * 784 - 1)) % 251);
    CHECK(torch::equal(set.y, torch::arange(23) % 10));
    CHECK(set.classes == 10);
    CHECK(torch::equal(set.index, torch::arange(23)));
    CHECK(set.sha256.size() == 2);
    CHECK(set.sha256.at("train-labels-idx1-ubyte").size() == 64);
  }
}

TEST_CASE("IDX images may have any size, from the header", "[data]") {
  CHECK(parse_idx_images(idx_images(3, 5, 7), "file").sizes() == torch::IntArrayRef({3, 1, 5, 7}));
}

TEST_CASE("an IDX file that contradicts its header is refused", "[data]") {
  const auto images = idx_images(2), labels = idx_labels(2);
  const auto of = [](const std::string& bytes) {
    return error_of([&] { (void)parse_idx_images(bytes, "file"); });
  };
  CHECK(of(images).empty());
  CHECK_THAT(of(images.substr(0, images.size() - 1)), StartsWith("4: file: truncated"));
  CHECK_THAT(of(images.substr(0, 10)), StartsWith("4: file: truncated"));
  CHECK_THAT(of(""), StartsWith("4: file: truncated"));
  CHECK_THAT(of(images + "x"), StartsWith("4: file: too long"));
  CHECK_THAT(of(labels + std::string(8, 'x')), Contains("0x00000801, expected 0x00000803"));
  CHECK_THAT(of(word(0x803) + word(0) + word(28) + word(28)), Contains("announces no data"));
  // 2^32 - 1 cubed overflows 64 bits and must not be allocated.
  CHECK_THAT(of(word(0x803) + word(~0u) + word(~0u) + word(~0u)), StartsWith("4: file: truncated"));
  CHECK_THAT(error_of([&] { (void)parse_idx_labels(images, "file"); }),
             Contains("0x00000803, expected 0x00000801"));
}

TEST_CASE("labels and images must be equally many, and labels in range", "[data]") {
  const TemporaryFolder root;
  const auto folder = root.path() / "mini/mnist-1k";
  const auto load = [&] { (void)load_dataset("mini/mnist-1k", root.path(), Split::Test); };
  write_idx_set(folder, 4);
  write_file(folder / "t10k-labels-idx1-ubyte", idx_labels(3));
  CHECK_THAT(error_of(load), StartsWith("4: ") && Contains("3 labels, but 4 images"));
  write_file(folder / "t10k-labels-idx1-ubyte", word(0x801) + word(4) + "\1\2\3\12");
  CHECK_THAT(error_of(load), StartsWith("4: ") && Contains("label 10, expected 0 to 9"));
}

TEST_CASE("CIFAR takes whichever training batches are there, in order", "[data]") {
  for (const std::string suffix : {"", ".gz", ".xz"}) {
    CAPTURE(suffix);
    const TemporaryFolder root;
    const auto folder = root.path() / "mini/cifar10-1k";
    write_file(folder / ("data_batch_4.bin" + suffix), packed(cifar_records(3, 5), suffix));
    write_file(folder / ("data_batch_2.bin" + suffix), packed(cifar_records(2), suffix));
    write_file(folder / ("test_batch.bin" + suffix), packed(cifar_records(1, 9), suffix));
    const auto train = load_dataset("mini/cifar10-1k", root.path(), Split::Train);
    CHECK(train.x.sizes() == torch::IntArrayRef({5, 3, 32, 32}));
    CHECK(torch::equal(train.y, torch::tensor({0, 1, 5, 6, 7}, torch::kInt64)));
    // Plane, row, column of a pixel: 7 (1024 c + 32 i + j) mod 251.
    CHECK(train.x[4][2][3][5].item<int>() == 7 * (2048 + 96 + 5) % 251);
    CHECK(train.sha256.size() == 2);
    const auto test = load_dataset("mini/cifar10-1k", root.path(), Split::Test);
    CHECK(test.y.item<int64_t>() == 9);
    CHECK(test.split == Split::Test);
  }
}

TEST_CASE("a CIFAR file of broken records is refused", "[data]") {
  for (const auto& bytes : {cifar_records(2) + "x", cifar_records(1).substr(1), std::string()}) {
    CHECK_THAT(error_of([&] { (void)parse_cifar(bytes, "file"); }),
               StartsWith("4: file: truncated or damaged"));
  }
}

TEST_CASE("a data set that is not there says how to get it", "[data]") {
  const TemporaryFolder root;
  for (const auto& entry : builtin_datasets()) {
    if (entry.is_drawn) continue;
    for (const auto split : {Split::Train, Split::Test}) {
      const auto error = error_of([&] { (void)load_dataset(entry.name, root.path(), split); });
      CAPTURE(error);
      const auto folder = entry.folder.empty() ? entry.name : entry.folder;
      CHECK_THAT(error, StartsWith("2: " + (root.path() / folder).string()));
      CHECK_THAT(error, Contains("`data/fetch " + entry.name + "`") && Contains("--data-root"));
    }
  }
}

TEST_CASE("an unknown data set names the nearest known one", "[data]") {
  CHECK_THAT(error_of([] { (void)load_dataset("cifar-10", "data", Split::Train); }),
             StartsWith("2: unknown data set \"cifar-10\"; did you mean \"cifar10\"?"));
}

TEST_CASE("an official set with another content is refused", "[data]") {
  const TemporaryFolder root;
  write_idx_set(root.path() / "mnist", 5, ".gz");
  const auto error = error_of([&] { (void)load_dataset("mnist", root.path(), Split::Train); });
  CHECK_THAT(error, StartsWith("4: ") && Contains("train-images-idx3-ubyte.gz: the SHA-256"));
  CHECK_THAT(error,
             Contains("expected ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"));
}

TEST_CASE("a damaged file is named", "[data]") {
  const TemporaryFolder root;
  const auto folder = root.path() / "mini/fashion-1k";
  write_idx_set(folder, 5, ".gz");
  fs::resize_file(folder / "train-images-idx3-ubyte.gz", 100);
  CHECK_THAT(error_of([&] { (void)load_dataset("mini/fashion-1k", root.path(), Split::Train); }),
             StartsWith("4: " + (folder / "train-images-idx3-ubyte.gz").string() + ": truncated"));
}

TEST_CASE("the MNIST of the repository is the official one", "[data][mnist]") {
  const auto train = load_dataset("mnist", kRepositoryData, Split::Train);
  const auto test = load_dataset("mnist", kRepositoryData, Split::Test);
  CHECK(train.x.sizes() == torch::IntArrayRef({60000, 1, 28, 28}));
  CHECK(test.size() == 10000);
  CHECK(torch::equal(train.y.narrow(0, 0, 10),
                     torch::tensor({5, 0, 4, 1, 9, 2, 1, 3, 1, 4}, torch::kInt64)));
  // Published class counts, mean and standard deviation.
  CHECK(torch::equal(
      torch::bincount(test.y),
      torch::tensor({980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009}, torch::kInt64)));
  const auto pixels = test.x.to(torch::kFloat64) / 255;
  CHECK(pixels.mean().item<double>() == Approx(0.132515).margin(1e-6));
  CHECK(pixels.std(/*unbiased=*/false).item<double>() == Approx(0.310480).margin(1e-6));

  const auto normal = normalised(test).x;
  CHECK(normal.mean().item<double>() == Approx((0.132515 - 0.1307) / 0.3081).margin(1e-5));
  CHECK(normal.std().item<double>() == Approx(0.310480 / 0.3081).margin(1e-4));
}
