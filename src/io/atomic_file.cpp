#include "io/atomic_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace evariste {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const fs::path& path, std::string_view action, int error) {
  throw IoError(
      fmt::format("{}: {}: {}", path.string(), action, std::generic_category().message(error)));
}

class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags)
      : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {}
  ~Descriptor() { close(); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }
  /// Some file systems report a full disk only here.
  bool close() { return fd_ < 0 || ::close(std::exchange(fd_, -1)) == 0; }

 private:
  int fd_;
};

class RemoveOnFailure {
 public:
  explicit RemoveOnFailure(fs::path path) : path_(std::move(path)) {}
  ~RemoveOnFailure() {
    if (!path_.empty()) ::unlink(path_.c_str());
  }
  void keep() { path_.clear(); }

 private:
  fs::path path_;
};

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) return "host";
  return name.data();
}

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

std::string temporary_prefix(const fs::path& path) {
  return fmt::format(".{}.{}.", path.filename().string(), host_name());
}

/// Different for every process and every call, so that two writers never share one.
fs::path temporary_for(const fs::path& path) {
  static std::atomic<unsigned> count{0};
  return folder_of(path) / fmt::format("{}{}.{}.tmp", temporary_prefix(path), ::getpid(), count++);
}

/// Removes the temporary files of dead processes of this host; a failure to do so costs nothing.
void remove_stale(const fs::path& path) {
  const auto prefix = temporary_prefix(path);
  std::error_code ignored;
  for (fs::directory_iterator it(folder_of(path), ignored), end; it != end; it.increment(ignored)) {
    const auto name = it->path().filename().string();
    if (!name.starts_with(prefix) || !name.ends_with(".tmp")) continue;
    pid_t pid = 0;
    const auto parsed =
        std::from_chars(name.data() + prefix.size(), name.data() + name.size(), pid);
    if (parsed.ec != std::errc() || *parsed.ptr != '.' || pid <= 0) continue;
    if (::kill(pid, 0) != 0 && errno == ESRCH) fs::remove(it->path(), ignored);
  }
}

/// The rename itself is only on the disk once the folder is.
void sync_folder(const fs::path& path) {
  Descriptor folder(folder_of(path), O_RDONLY | O_DIRECTORY);
  if (!folder.is_open()) return;  // a folder that may be written to but not read
  if (::fsync(folder.get()) != 0 && errno != EINVAL && errno != ENOTSUP)
    fail(path, "cannot sync its folder", errno);
}

void write_all(const Descriptor& file, const fs::path& path, std::string_view bytes) {
  while (!bytes.empty()) {
    const auto written = ::write(file.get(), bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail(path, "cannot write", errno);
    bytes.remove_prefix(static_cast<size_t>(written));
  }
}

}  // namespace

void write_atomically(const fs::path& path, const std::function<void(const fs::path&)>& write) {
  remove_stale(path);
  const auto temporary = temporary_for(path);
  RemoveOnFailure cleanup(temporary);
  write(temporary);
  {
    Descriptor file(temporary, O_RDONLY);
    if (!file.is_open()) fail(path, "cannot open the temporary file", errno);
    if (::fsync(file.get()) != 0) fail(path, "cannot sync", errno);
    if (!file.close()) fail(path, "cannot write", errno);
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) fail(path, "cannot replace", errno);
  cleanup.keep();
  sync_folder(path);
}

void write_atomically(const fs::path& path, std::string_view bytes) {
  write_atomically(path, [&](const fs::path& temporary) {
    Descriptor file(temporary, O_WRONLY | O_CREAT | O_EXCL);
    if (!file.is_open()) fail(path, "cannot create", errno);
    write_all(file, path, bytes);
    if (!file.close()) fail(path, "cannot write", errno);
  });
}

std::string read_file(const fs::path& path) {
  Descriptor file(path, O_RDONLY);
  if (!file.is_open()) {
    if (errno == ENOENT || errno == ENOTDIR)
      throw UsageError(fmt::format("{}: no such file", path.string()));
    fail(path, "cannot open", errno);
  }
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) fail(path, "cannot read", errno);
  if (S_ISDIR(status.st_mode))
    throw UsageError(fmt::format("{}: a folder, expected a file", path.string()));
  // Sized from the status, then read to the end: pipes and /proc say 0.
  std::string bytes(static_cast<size_t>(status.st_size) + 1, '\0');
  size_t filled = 0;
  for (;;) {
    if (filled == bytes.size()) bytes.resize(2 * bytes.size() + 4096);
    const auto got = ::read(file.get(), bytes.data() + filled, bytes.size() - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(path, "cannot read", errno);
    if (got == 0) break;
    filled += static_cast<size_t>(got);
  }
  bytes.resize(filled);
  return bytes;
}

}  // namespace evariste
