// A run record from the HDF5 image that run_record_write.cpp makes.
#include <array>
#include <map>
#include <numeric>

#include "io/atomic_file.h"
#include "io/hdf5_handle.h"
#include "io/run_record.h"

namespace evariste {
namespace {

constexpr size_t kGrowthBytes = 1 << 16;

class Reader {
 public:
  Reader(const std::filesystem::path& path, std::string& image, std::string_view kind)
      : checks_(fmt::format("{}: damaged or no {}", path.string(), kind)), file_(open(image)) {}

  RunRecord read() {
    read_attributes();
    for (const auto& path : datasets_below("")) {
      const auto dataset = open_dataset(path);
      (checks_.check(H5DSis_scale(dataset), "look at", path) > 0 ? dimensions_ : arrays_)
          .push_back(path);
    }
    for (const auto& path : dimensions_) read_dimension(path);
    for (const auto& path : arrays_) read_array(path);
    return std::move(record_);
  }

 private:
  Hdf5Handle open(std::string& image) {
    const auto access = checks_.own(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, "make", "properties");
    checks_.check(H5Pset_fapl_core(access, kGrowthBytes, false), "keep in memory", "the file");
    checks_.check(H5Pset_file_image(access, image.data(), image.size()), "take", "the bytes");
    return checks_.own(H5Fopen("run", H5F_ACC_RDONLY, access), H5Fclose, "open", "it as HDF5");
  }

  Hdf5Handle open_dataset(const std::string& path) {
    return checks_.own(H5Dopen2(file_, path.c_str(), H5P_DEFAULT), H5Dclose, "open", path);
  }

  /// Paths without a leading slash, in the order of creation.
  std::vector<std::string> datasets_below(const std::string& group) {
    const auto name = group.empty() ? std::string("/") : group;
    const auto opened =
        checks_.own(H5Gopen2(file_, name.c_str(), H5P_DEFAULT), H5Gclose, "open", name);
    std::vector<std::string> members;
    const auto collect = [](hid_t, const char* member, const H5L_info_t*, void* out) -> herr_t {
      static_cast<std::vector<std::string>*>(out)->emplace_back(member);
      return 0;
    };
    checks_.check(H5Literate(opened, H5_INDEX_CRT_ORDER, H5_ITER_INC, nullptr, collect, &members),
                  "list", name);
    std::vector<std::string> paths;
    for (const auto& member : members) {
      const auto path = group.empty() ? member : group + '/' + member;
      const auto object =
          checks_.own(H5Oopen(file_, path.c_str(), H5P_DEFAULT), H5Oclose, "open", path);
      if (H5Iget_type(object) == H5I_GROUP) {
        const auto below = datasets_below(path);
        paths.insert(paths.end(), below.begin(), below.end());
      } else {
        paths.push_back(path);
      }
    }
    return paths;
  }

  Attribute read_attribute(hid_t object, const std::string& name) {
    const auto attribute =
        checks_.own(H5Aopen(object, name.c_str(), H5P_DEFAULT), H5Aclose, "open attribute", name);
    const auto type = checks_.own(H5Aget_type(attribute), H5Tclose, "read the type of", name);
    switch (H5Tget_class(type)) {
      case H5T_FLOAT: {
        double value = 0;
        checks_.check(H5Aread(attribute, H5T_NATIVE_DOUBLE, &value), "read attribute", name);
        return value;
      }
      case H5T_INTEGER: {
        int64_t value = 0;
        checks_.check(H5Aread(attribute, H5T_NATIVE_INT64, &value), "read attribute", name);
        return value;
      }
      default: {
        if (H5Tis_variable_str(type) <= 0) checks_.fail("unexpected type of attribute " + name);
        char* text = nullptr;
        checks_.check(H5Aread(attribute, hdf5_string_type(), &text), "read attribute", name);
        std::string value = text == nullptr ? "" : text;
        H5free_memory(text);
        return value;
      }
    }
  }

  std::string words(hid_t dataset, const char* name) {
    if (checks_.check(H5Aexists(dataset, name), "look for attribute", name) == 0) return "";
    auto value = read_attribute(dataset, name);
    const auto* text = std::get_if<std::string>(&value);
    return text == nullptr ? "" : *text;
  }

  void read_attributes() {
    std::vector<std::string> names;
    const auto collect = [](hid_t, const char* name, const H5A_info_t*, void* out) -> herr_t {
      static_cast<std::vector<std::string>*>(out)->emplace_back(name);
      return 0;
    };
    checks_.check(H5Aiterate2(file_, H5_INDEX_NAME, H5_ITER_INC, nullptr, collect, &names), "list",
                  "attributes");
    for (const auto& name : names) record_.attributes[name] = read_attribute(file_, name);
  }

  std::vector<hsize_t> shape_of(hid_t dataset, const std::string& path,
                                bool* is_unlimited = nullptr) {
    const auto space = checks_.own(H5Dget_space(dataset), H5Sclose, "read the shape of", path);
    const auto rank = checks_.check(H5Sget_simple_extent_ndims(space), "read the shape of", path);
    std::vector<hsize_t> lengths(static_cast<size_t>(rank)), largest(lengths.size());
    checks_.check(H5Sget_simple_extent_dims(space, lengths.data(), largest.data()),
                  "read the shape of", path);
    if (is_unlimited != nullptr) *is_unlimited = rank > 0 && largest[0] == H5S_UNLIMITED;
    return lengths;
  }

  Values read_values(hid_t dataset, const std::string& path, const std::vector<hsize_t>& shape) {
    const auto count = static_cast<size_t>(
        std::accumulate(shape.begin(), shape.end(), hsize_t{1}, std::multiplies<>()));
    const auto type = checks_.own(H5Dget_type(dataset), H5Tclose, "read the type of", path);
    const auto fill = [&](hid_t memory_type, void* data) {
      if (count > 0)
        checks_.check(H5Dread(dataset, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data), "read",
                      path);
    };
    if (H5Tget_class(type) == H5T_FLOAT) {
      std::vector<double> values(count);
      fill(H5T_NATIVE_DOUBLE, values.data());
      return values;
    }
    if (H5Tget_class(type) == H5T_INTEGER) {
      std::vector<int64_t> values(count);
      fill(H5T_NATIVE_INT64, values.data());
      return values;
    }
    if (H5Tis_variable_str(type) <= 0) checks_.fail("unexpected type of " + path);
    std::vector<char*> texts(count, nullptr);
    fill(hdf5_string_type(), texts.data());
    std::vector<std::string> values;
    for (char* text : texts) {
      values.emplace_back(text == nullptr ? "" : text);
      H5free_memory(text);
    }
    return values;
  }

  void read_dimension(const std::string& path) {
    const auto dataset = open_dataset(path);
    RunDimension dimension;
    dimension.path = path;
    const auto shape = shape_of(dataset, path, &dimension.is_unlimited);
    if (shape.size() != 1) checks_.fail(path + " is a dimension and should have one axis");
    dimension.values = read_values(dataset, path, shape);
    dimension.long_name = words(dataset, "long_name");
    dimension.units = words(dataset, "units");
    record_.dimensions.push_back(std::move(dimension));
  }

  /// The dimension attached to one axis; it stands in the same group.
  size_t dimension_at(hid_t dataset, const std::string& path, unsigned axis) {
    std::string name;
    const auto take = [](hid_t, unsigned, hid_t scale, void* out) -> herr_t {
      std::array<char, 256> text{};
      if (H5DSget_scale_name(scale, text.data(), text.size()) < 0) return -1;
      *static_cast<std::string*>(out) = text.data();
      return 1;
    };
    checks_.check(H5DSiterate_scales(dataset, axis, nullptr, take, &name), "read the dimensions of",
                  path);
    const auto wanted = path.substr(0, path.rfind('/') + 1) + name;
    for (size_t d = 0; d < record_.dimensions.size(); ++d)
      if (record_.dimensions[d].path == wanted) return d;
    checks_.fail(fmt::format("axis {} of {} has no dimension", axis, path));
  }

  void read_array(const std::string& path) {
    const auto dataset = open_dataset(path);
    RunArray array;
    array.path = path;
    const auto shape = shape_of(dataset, path);
    for (unsigned axis = 0; axis < shape.size(); ++axis) {
      array.dimensions.push_back(dimension_at(dataset, path, axis));
      const auto length = size_of(record_.dimensions[array.dimensions.back()].values);
      if (static_cast<hsize_t>(length) != shape[axis])
        checks_.fail(fmt::format("axis {} of {} has {} values, its dimension {}", axis, path,
                                 shape[axis], length));
    }
    array.values = read_values(dataset, path, shape);
    array.long_name = words(dataset, "long_name");
    array.units = words(dataset, "units");
    record_.arrays.push_back(std::move(array));
  }

  Hdf5Checks checks_;
  Hdf5Handle file_;
  RunRecord record_;
  std::vector<std::string> dimensions_, arrays_;
};

}  // namespace

RunRecord read_run(const std::filesystem::path& path, std::string_view kind) {
  const Hdf5Silence silence;
  auto image = read_file(path);
  return Reader(path, image, kind).read();
}

}  // namespace evariste
