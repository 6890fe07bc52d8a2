// The HDF5 side of a run file, looked at with the C API: what h5netcdf and netCDF4 rely on.
#include <hdf5.h>
#include <hdf5_hl.h>

#include "core/error.h"
#include "io/run_file.h"
#include "tests/catch.h"
#include "tests/io/temporary_folder.h"

using namespace evariste;

namespace {

struct Opened {
  explicit Opened(const std::filesystem::path& path)
      : file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT)) {
    REQUIRE(file >= 0);
  }
  ~Opened() { H5Fclose(file); }
  hid_t file;
};

/// A run as programs write it: traces, controls in nested groups, a table, predictions.
void write_run_of_every_kind(const std::filesystem::path& path) {
  Provenance provenance;
  provenance.config = std::string(200'000, '#');  // larger than an object header
  RunFile run(path, provenance);
  for (const std::string group : {"trace", "controls/map/trace"}) {
    const auto epoch = run.unlimited(group + "/epoch", "epoch");
    const auto loss = run.series(group + "/train_loss", {epoch}, "training loss", "nats");
    for (int t = 0; t < 3; ++t) run.append(epoch, t, {{loss, {0.5 * t}}});
  }
  const auto epoch = run.unlimited("pathways/epoch");
  const auto layer = run.labels("pathways/layer", {"1", "2"});
  const auto pathway = run.labels("pathways/pathway", {"fc", "conv"});
  const auto share = run.series("pathways/share_variance", {epoch, layer, pathway}, "share");
  run.append(epoch, 0, {{share, {0.1, 0.9, 0.2, 0.8}}});
  run.unlimited("empty/epoch");
  const auto sample = run.values("predictions/sample", std::vector<int64_t>(5000, 1));
  run.array("predictions/label", {sample}, std::vector<int64_t>(5000, 7));
  run.array("predictions/name", {sample}, std::vector<std::string>(5000, "x"));
  run.finish();
}

}  // namespace

TEST_CASE("every axis of every array has a dimension scale of its group", "[io][run][format]") {
  const TemporaryFolder folder;
  write_run_of_every_kind(folder / "run.h5");
  const Opened run(folder / "run.h5");
  int arrays = 0;
  const auto look = [](hid_t file, const char* name, const H5O_info_t* info, void* out) -> herr_t {
    if (info->type != H5O_TYPE_DATASET) return 0;
    const auto dataset = H5Dopen2(file, name, H5P_DEFAULT);
    if (H5DSis_scale(dataset) == 0) {
      const auto space = H5Dget_space(dataset);
      for (int axis = 0; axis < H5Sget_simple_extent_ndims(space); ++axis)
        if (H5DSget_num_scales(dataset, static_cast<unsigned>(axis)) != 1) return -1;
      H5Sclose(space);
      ++*static_cast<int*>(out);
    }
    H5Dclose(dataset);
    return 0;
  };
  CHECK(H5Ovisit(run.file, H5_INDEX_NAME, H5_ITER_INC, look, &arrays) >= 0);
  CHECK(arrays == 5);
}

TEST_CASE("epochs are unlimited, traces chunked, shuffled and deflated", "[io][run][format]") {
  const TemporaryFolder folder;
  write_run_of_every_kind(folder / "run.h5");
  const Opened run(folder / "run.h5");
  const auto dataset = H5Dopen2(run.file, "pathways/share_variance", H5P_DEFAULT);
  const auto space = H5Dget_space(dataset);
  hsize_t lengths[3], largest[3];
  REQUIRE(H5Sget_simple_extent_dims(space, lengths, largest) == 3);
  CHECK(largest[0] == H5S_UNLIMITED);
  CHECK(largest[1] == 2);
  const auto properties = H5Dget_create_plist(dataset);
  CHECK(H5Pget_layout(properties) == H5D_CHUNKED);
  REQUIRE(H5Pget_nfilters(properties) == 2);
  unsigned level = 0, flags = 0;
  size_t count = 1;
  CHECK(H5Pget_filter2(properties, 0, &flags, nullptr, nullptr, 0, nullptr, nullptr) ==
        H5Z_FILTER_SHUFFLE);
  CHECK(H5Pget_filter2(properties, 1, &flags, &count, &level, 0, nullptr, nullptr) ==
        H5Z_FILTER_DEFLATE);
  CHECK(level == 4);
  double values[4];
  H5Dread(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
  CHECK(values[3] == 0.8);
  H5Pclose(properties);
  H5Sclose(space);
  H5Dclose(dataset);
}

TEST_CASE("names are UTF-8 of variable length and every group tracks its order",
          "[io][run][format]") {
  const TemporaryFolder folder;
  write_run_of_every_kind(folder / "run.h5");
  const Opened run(folder / "run.h5");
  const auto dataset = H5Dopen2(run.file, "pathways/pathway", H5P_DEFAULT);
  const auto type = H5Dget_type(dataset);
  CHECK(H5Tis_variable_str(type) > 0);
  CHECK(H5Tget_cset(type) == H5T_CSET_UTF8);
  H5Tclose(type);
  H5Dclose(dataset);
  for (const char* name : {"/", "trace", "controls", "controls/map", "controls/map/trace"}) {
    CAPTURE(name);
    const auto group = H5Gopen2(run.file, name, H5P_DEFAULT);
    const auto properties = H5Gget_create_plist(group);
    unsigned order = 0;
    H5Pget_link_creation_order(properties, &order);
    CHECK((order & H5P_CRT_ORDER_TRACKED) != 0);
    H5Pclose(properties);
    H5Gclose(group);
  }
}

TEST_CASE("a reader that keeps the file open neither disturbs nor is disturbed",
          "[io][run][format]") {
  const TemporaryFolder folder;
  write_run_of_every_kind(folder / "run.h5");
  const Opened reader(folder / "run.h5");
  CHECK_NOTHROW(RunFile::resume(folder / "run.h5", {}).finish());
  const auto dataset = H5Dopen2(reader.file, "trace/train_loss", H5P_DEFAULT);
  double values[3] = {};
  CHECK(H5Dread(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0);
  CHECK(values[2] == 1.0);
  H5Dclose(dataset);
}

TEST_CASE("a long configuration comes back whole", "[io][run][format]") {
  const TemporaryFolder folder;
  write_run_of_every_kind(folder / "run.h5");
  CHECK(std::get<std::string>(read_run(folder / "run.h5").attribute("config")).size() == 200'000);
}
