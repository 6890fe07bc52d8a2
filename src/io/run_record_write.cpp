// The HDF5 image of a run record, made in memory.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "io/atomic_file.h"
#include "io/hdf5_handle.h"
#include "io/run_record.h"

namespace evariste {
namespace {

constexpr hsize_t kChunkValues = 4096;  // 32 kB of doubles
constexpr unsigned kDeflateLevel = 4;
constexpr unsigned kTracked = H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED;
constexpr size_t kGrowthBytes = 4096;  // of the memory; the last step pads the file

struct Shape {
  std::vector<hsize_t> lengths;
  bool is_unlimited = false;

  hsize_t count() const {
    return std::accumulate(lengths.begin(), lengths.end(), hsize_t{1}, std::multiplies<>());
  }
};

/// The memory in which HDF5 builds a file, kept when it closes the file. (H5Fget_file_image of 1.10
/// gives a superblock whose checksum does not fit.)
class Memory {
 public:
  std::string& bytes() { return bytes_; }

  H5FD_file_image_callbacks_t callbacks() {
    return {[](size_t size, H5FD_file_image_op_t, void*) { return std::malloc(size); },
            [](void* to, const void* from, size_t size, H5FD_file_image_op_t, void*) {
              return std::memcpy(to, from, size);
            },
            [](void* block, size_t size, H5FD_file_image_op_t, void* self) {
              static_cast<Memory*>(self)->size_ = size;
              return std::realloc(block, size);
            },
            [](void* block, H5FD_file_image_op_t operation, void* self) -> herr_t {
              auto* memory = static_cast<Memory*>(self);
              if (operation == H5FD_FILE_IMAGE_OP_FILE_CLOSE && block != nullptr)
                memory->bytes_.assign(static_cast<const char*>(block), memory->size_);
              std::free(block);
              return 0;
            },
            [](void* self) { return self; },
            [](void*) -> herr_t { return 0; },
            this};
  }

 private:
  size_t size_ = 0;
  std::string bytes_;
};

class Image {
 public:
  Image(std::string name, Memory& memory) : checks_(std::move(name)), file_(create(memory)) {}

  void write(const RunRecord& record) {
    for (const auto& [name, value] : record.attributes) write_attribute(file_, name, value);
    std::vector<Hdf5Handle> scales;
    for (const auto& dimension : record.dimensions) scales.push_back(write_dimension(dimension));
    for (const auto& array : record.arrays) write_array(record, array, scales);
    checks_.check(H5Fflush(file_, H5F_SCOPE_LOCAL), "make", "the image");
  }

 private:
  Hdf5Handle create(Memory& memory) {
    const auto access = checks_.own(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, "make", "properties");
    checks_.check(H5Pset_fapl_core(access, kGrowthBytes, false), "keep in memory", "the file");
    auto callbacks = memory.callbacks();
    checks_.check(H5Pset_file_image_callbacks(access, &callbacks), "keep in memory", "the file");
    // The format of HDF5 1.8: metadata carry checksums, and every reader in use knows it.
    checks_.check(H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18), "set",
                  "the format");
    const auto creation = checks_.own(H5Pcreate(H5P_FILE_CREATE), H5Pclose, "make", "properties");
    checks_.check(H5Pset_link_creation_order(creation, kTracked), "track", "the order");
    return checks_.own(H5Fcreate("run", H5F_ACC_TRUNC, creation, access), H5Fclose, "make",
                       "the file");
  }

  /// Group by group, so that each tracks the order of its members.
  void make_groups(const std::string& path) {
    const auto properties =
        checks_.own(H5Pcreate(H5P_GROUP_CREATE), H5Pclose, "make", "group properties");
    checks_.check(H5Pset_link_creation_order(properties, kTracked), "track", "the order");
    for (auto slash = path.find('/'); slash != std::string::npos;
         slash = path.find('/', slash + 1)) {
      const auto group = path.substr(0, slash);
      if (checks_.check(H5Lexists(file_, group.c_str(), H5P_DEFAULT), "look for", group) > 0)
        continue;
      checks_.own(H5Gcreate2(file_, group.c_str(), H5P_DEFAULT, properties, H5P_DEFAULT), H5Gclose,
                  "make group", group);
    }
  }

  void write_attribute(hid_t object, const std::string& name, const Attribute& value) {
    const auto space = checks_.own(H5Screate(H5S_SCALAR), H5Sclose, "make", "a scalar");
    const auto write = [&](hid_t type, const void* data) {
      const auto attribute =
          checks_.own(H5Acreate2(object, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT),
                      H5Aclose, "make attribute", name);
      checks_.check(H5Awrite(attribute, type, data), "write attribute", name);
    };
    if (const auto* text = std::get_if<std::string>(&value)) {
      const char* data = text->c_str();
      write(hdf5_string_type(), &data);
    } else if (const auto* number = std::get_if<double>(&value)) {
      write(H5T_IEEE_F64LE, number);
    } else {
      write(H5T_STD_I64LE, &std::get<int64_t>(value));
    }
  }

  void write_words(hid_t dataset, const std::string& long_name, const std::string& units) {
    if (!long_name.empty()) write_attribute(dataset, "long_name", long_name);
    if (!units.empty()) write_attribute(dataset, "units", units);
  }

  /// What can grow has to be chunked, what is large is worth compressing. The chunks fit the
  /// present size, since the next version of the file is another file.
  Hdf5Handle layout(const Shape& shape, bool is_text) {
    auto properties = checks_.own(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, "make", "properties");
    if (!shape.is_unlimited && shape.count() <= kChunkValues) return properties;
    auto chunk = shape.lengths;
    for (auto& length : chunk) length = std::max<hsize_t>(length, 1);
    const auto row =
        std::accumulate(chunk.begin() + 1, chunk.end(), hsize_t{1}, std::multiplies<>());
    chunk[0] = std::min(chunk[0], std::max<hsize_t>(kChunkValues / row, 1));
    checks_.check(H5Pset_chunk(properties, static_cast<int>(chunk.size()), chunk.data()), "set",
                  "chunks");
    if (is_text) return properties;  // the letters stand elsewhere, only references would shrink
    checks_.check(H5Pset_shuffle(properties), "set", "shuffle");
    checks_.check(H5Pset_deflate(properties, kDeflateLevel), "set", "deflate");
    return properties;
  }

  Hdf5Handle write_values(const std::string& path, const Shape& shape, const Values& values) {
    make_groups(path);
    auto largest = shape.lengths;
    if (shape.is_unlimited) largest[0] = H5S_UNLIMITED;
    const auto rank = static_cast<int>(shape.lengths.size());
    const auto space =
        checks_.own(rank == 0 ? H5Screate(H5S_SCALAR)
                              : H5Screate_simple(rank, shape.lengths.data(), largest.data()),
                    H5Sclose, "make the shape of", path);
    const auto write = [&](hid_t type, const void* data, bool is_text) {
      const auto properties = layout(shape, is_text);
      auto dataset = checks_.own(
          H5Dcreate2(file_, path.c_str(), type, space, H5P_DEFAULT, properties, H5P_DEFAULT),
          H5Dclose, "make", path);
      if (shape.count() > 0)
        checks_.check(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data), "write", path);
      return dataset;
    };
    if (const auto* texts = std::get_if<std::vector<std::string>>(&values)) {
      std::vector<const char*> data;
      for (const auto& text : *texts) data.push_back(text.c_str());
      return write(hdf5_string_type(), data.data(), true);
    }
    if (const auto* numbers = std::get_if<std::vector<double>>(&values))
      return write(H5T_IEEE_F64LE, numbers->data(), false);
    return write(H5T_STD_I64LE, std::get<std::vector<int64_t>>(values).data(), false);
  }

  Hdf5Handle write_dimension(const RunDimension& dimension) {
    const Shape shape{{static_cast<hsize_t>(size_of(dimension.values))}, dimension.is_unlimited};
    auto dataset = write_values(dimension.path, shape, dimension.values);
    const auto name = dimension.path.substr(dimension.path.rfind('/') + 1);
    checks_.check(H5DSset_scale(dataset, name.c_str()), "make a dimension of", dimension.path);
    write_words(dataset, dimension.long_name, dimension.units);
    return dataset;
  }

  void write_array(const RunRecord& record, const RunArray& array,
                   const std::vector<Hdf5Handle>& scales) {
    Shape shape;
    for (const auto length : record.shape(array))
      shape.lengths.push_back(static_cast<hsize_t>(length));
    shape.is_unlimited =
        !array.dimensions.empty() && record.dimensions[array.dimensions[0]].is_unlimited;
    const auto dataset = write_values(array.path, shape, array.values);
    for (unsigned d = 0; d < array.dimensions.size(); ++d)
      checks_.check(H5DSattach_scale(dataset, scales[array.dimensions[d]], d),
                    "attach dimensions to", array.path);
    write_words(dataset, array.long_name, array.units);
  }

  Hdf5Checks checks_;
  Hdf5Handle file_;
};

}  // namespace

void write_run(const std::filesystem::path& path, const RunRecord& record) {
  const Hdf5Silence silence;
  Memory memory;
  Image(path.string(), memory).write(record);  // closed at the end of this line
  if (memory.bytes().empty()) Hdf5Checks(path.string()).fail("cannot make the file in memory");
  write_atomically(path, memory.bytes());
}

}  // namespace evariste
