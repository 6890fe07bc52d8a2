// What a run says while it runs: lines and progress on stderr, every line in run.log.
//
// stdout is left to results (tables, one JSON object), so that `--json` needs nothing special here.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iosfwd>
#include <optional>
#include <string>
#include <string_view>

namespace evariste {

struct LogOptions {
  std::filesystem::path file = {};       ///< run.log, appended to; empty: none
  bool quiet = false;                    ///< nothing on stderr, run.log as always
  std::ostream* stream = nullptr;        ///< instead of stderr
  std::optional<bool> is_terminal = {};  ///< unset: whether stderr is one
  std::function<double()> seconds = {};  ///< a steady clock, unset: the machine's
};

class Log {
 public:
  static constexpr double kLineEverySeconds = 30;     // progress off a terminal and in run.log
  static constexpr double kRedrawEverySeconds = 0.1;  // progress on a terminal

  /// Throws IoError where the file cannot be opened.
  explicit Log(LogOptions options = {});
  /// Ends a progress line that stands on the terminal.
  ~Log();
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

  /// One line. In the file it starts with the time, `2025-01-31T12:00:00Z`. Throws IoError where
  /// the file cannot be written (disk full).
  void line(std::string_view text);

  /// `train 12/40 evidence -1.234, 1 min 20 s left`: on a terminal one redrawn line, elsewhere at
  /// most a line every 30 s, and the last one (done = total) always. The time left is that of the
  /// steps since the stage's first call, so a resumed run predicts its own speed.
  void progress(std::string_view stage, int64_t done, int64_t total, std::string_view extra = "");

 private:
  void write_file(std::string_view text);
  void clear_progress();

  LogOptions options_;
  std::ostream& stream_;
  bool is_terminal_ = false;
  std::ofstream file_;
  bool progress_shown_ = false;
  std::string stage_;
  int64_t stage_first_ = 0;
  double stage_start_ = 0, last_line_ = 0, last_redraw_ = 0;
};

/// `45 s`, `3 min 20 s`, `2 h 5 min`.
std::string duration_text(double seconds);

}  // namespace evariste
