// Files that are replaced whole: a kill or a full disk at any instant leaves the old file or the
// new.
//
// The bytes go to a temporary name in the same folder (`.NAME.HOST.PID.N.tmp`), are synced, renamed
// over the target, and the folder is synced. What a killed process left behind is removed by the
// next write of the same target on the same host.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace evariste {

/// Replaces `path` by `bytes`. Throws IoError naming the file and the reason (no space left, no
/// permission, no such folder); the temporary file is gone and the old file untouched then.
void write_atomically(const std::filesystem::path& path, std::string_view bytes);

/// The same for writers that want a path: `write` fills the temporary file it is given. What it
/// throws is passed on, after the temporary file has been removed.
void write_atomically(const std::filesystem::path& path,
                      const std::function<void(const std::filesystem::path& temporary)>& write);

/// The whole file. Throws UsageError where there is none, IoError where it cannot be read.
std::string read_file(const std::filesystem::path& path);

}  // namespace evariste
