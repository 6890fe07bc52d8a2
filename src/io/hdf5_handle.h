// Owners for HDF5's identifiers, and its failures as IoError.
#pragma once

#include <fmt/format.h>
#include <hdf5.h>
#include <hdf5_hl.h>

#include <string>
#include <utility>

#include "core/error.h"

namespace evariste {

/// Closes what it holds.
class Hdf5Handle {
 public:
  using Close = herr_t (*)(hid_t);

  Hdf5Handle(hid_t id, Close close) : id_(id), close_(close) {}
  ~Hdf5Handle() {
    if (id_ >= 0) close_(id_);
  }
  Hdf5Handle(Hdf5Handle&& other) noexcept
      : id_(std::exchange(other.id_, H5I_INVALID_HID)), close_(other.close_) {}
  Hdf5Handle& operator=(Hdf5Handle&&) = delete;

  operator hid_t() const { return id_; }

 private:
  hid_t id_;
  Close close_;
};

/// HDF5 prints its error stack on stderr; not while one of these lives.
class Hdf5Silence {
 public:
  Hdf5Silence() {
    H5Eget_auto2(H5E_DEFAULT, &print_, &data_);
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  }
  ~Hdf5Silence() { H5Eset_auto2(H5E_DEFAULT, print_, data_); }
  Hdf5Silence(const Hdf5Silence&) = delete;
  Hdf5Silence& operator=(const Hdf5Silence&) = delete;

 private:
  H5E_auto2_t print_ = nullptr;
  void* data_ = nullptr;
};

/// Names the file in what goes wrong: `check(H5Dread(...), "read", "trace/epoch")`.
class Hdf5Checks {
 public:
  explicit Hdf5Checks(std::string file) : file_(std::move(file)) {}

  template <class Result>
  Result check(Result result, const char* action, const std::string& what) const {
    if (result < 0) fail(fmt::format("cannot {} {}", action, what));
    return result;
  }
  Hdf5Handle own(hid_t id, Hdf5Handle::Close close, const char* action,
                 const std::string& what) const {
    return Hdf5Handle(check(id, action, what), close);
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw IoError(fmt::format("{}: {}", file_, what));
  }

 private:
  std::string file_;
};

/// Variable-length UTF-8.
inline Hdf5Handle hdf5_string_type() {
  Hdf5Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type, H5T_VARIABLE);
  H5Tset_cset(type, H5T_CSET_UTF8);
  return type;
}

}  // namespace evariste
