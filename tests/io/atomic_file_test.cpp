#include "io/atomic_file.h"

#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include "core/error.h"
#include "core/sha256.h"
#include "tests/catch.h"
#include "tests/io/temporary_folder.h"

using namespace evariste;

TEST_CASE("a file is replaced whole and nothing else is left", "[io][atomic]") {
  const TemporaryFolder folder;
  write_atomically(folder / "a", "old");
  CHECK(read_file(folder / "a") == "old");
  const std::string bytes("new\0with a zero", 15);
  write_atomically(folder / "a", bytes);
  CHECK(read_file(folder / "a") == bytes);
  CHECK(folder.file_count() == 1);
}

TEST_CASE("a writer that throws leaves the old file and no temporary one", "[io][atomic]") {
  const TemporaryFolder folder;
  write_atomically(folder / "a", "old");
  const auto write = [](const std::filesystem::path& temporary) {
    write_text(temporary, "half");
    throw NumericalError("stop");
  };
  CHECK_THROWS_AS(write_atomically(folder / "a", write), NumericalError);
  CHECK(read_file(folder / "a") == "old");
  CHECK(folder.file_count() == 1);
}

TEST_CASE("a missing folder and a place nobody may write to are named", "[io][atomic]") {
  const TemporaryFolder folder;
  CHECK_THROWS_WITH(write_atomically(folder / "none" / "a", "x"),
                    Contains("none/a: cannot create: No such file or directory"));
  CHECK_THROWS_AS(write_atomically("/proc/evariste", "x"), IoError);  // not even root
  if (geteuid() == 0) return;
  std::filesystem::permissions(
      folder.path(), std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
  CHECK_THROWS_WITH(write_atomically(folder / "a", "x"), Contains("Permission denied"));
  std::filesystem::permissions(folder.path(), std::filesystem::perms::owner_all);
}

TEST_CASE("a file that is not there is a usage error, a folder too", "[io][atomic]") {
  const TemporaryFolder folder;
  CHECK_THROWS_AS(read_file(folder / "none"), UsageError);
  CHECK_THROWS_AS(read_file(folder.path()), UsageError);
  CHECK(read_file("/proc/self/stat").size() > 10);  // the kernel says that it has 0 bytes
}

TEST_CASE("a write that fails half-way leaves the old file", "[io][atomic]") {
  const TemporaryFolder folder;
  write_atomically(folder / "a", "old");
  const int code = exit_code_of_child([&] {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{10'000, 10'000};  // bytes a file may have: later ones fail with EFBIG
    setrlimit(RLIMIT_FSIZE, &limit);
    try {
      write_atomically(folder / "a", std::string(100'000, 'x'));
    } catch (const IoError& error) {
      return std::string(error.what()).find("File too large") == std::string::npos ? 2 : 0;
    }
    return 1;
  });
  CHECK(code == 0);
  CHECK(read_file(folder / "a") == "old");
  CHECK(folder.file_count() == 1);
}

TEST_CASE("a full disk is an I/O error that says so, and the old file stays", "[io][atomic]") {
  constexpr int kNoPermission = 42;
  const TemporaryFolder folder;
  const int code = exit_code_of_child([&] {
    const int user = geteuid() == 0 ? 0 : CLONE_NEWUSER;
    if (unshare(CLONE_NEWNS | user) != 0) return kNoPermission;
    mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
    if (mount("small", folder.path().c_str(), "tmpfs", 0, "size=64k") != 0) return kNoPermission;
    write_atomically(folder / "a", "old");
    try {
      write_atomically(folder / "a", std::string(1'000'000, 'x'));
    } catch (const IoError& error) {
      if (std::string(error.what()).find("No space left on device") == std::string::npos) return 2;
      return read_file(folder / "a") == "old" && folder.file_count() == 1 ? 0 : 3;
    }
    return 1;
  });
  if (code == kNoPermission) {
    WARN("no permission to mount a small file system: skipped");
    return;
  }
  CHECK(code == 0);
}

TEST_CASE("a kill at any instant leaves the old file or the new", "[io][atomic]") {
  const TemporaryFolder folder;
  const auto path = folder / "a";
  write_atomically(path, std::string(300'000, 'a'));
  for (int round = 0; round < 15; ++round) {
    char letter = 'a';
    kill_while([&] { write_atomically(path, std::string(300'000, letter++)); },
               [&] { sha256_hex(std::string(static_cast<size_t>(40'000 * round), 'x')); });
    const auto bytes = read_file(path);
    REQUIRE(bytes.size() == 300'000);
    REQUIRE(bytes == std::string(bytes.size(), bytes[0]));
  }
  write_atomically(path, "last");  // and it cleans up what the dead have left
  CHECK(folder.file_count() == 1);
}
