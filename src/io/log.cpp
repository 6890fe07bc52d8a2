#include "io/log.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <iostream>
#include <system_error>

#include "core/error.h"
#include "io/utc.h"

namespace evariste {
namespace {

double steady_seconds() {
  using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count();
}

}  // namespace

std::string duration_text(double seconds) {
  const auto s = static_cast<int64_t>(std::llround(std::max(seconds, 0.0)));
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{} min {} s", s / 60, s % 60);
  return fmt::format("{} h {} min", s / 3600, s % 3600 / 60);
}

Log::Log(LogOptions options)
    : options_(std::move(options)),
      stream_(options_.stream != nullptr ? *options_.stream : std::cerr) {
  if (!options_.seconds) options_.seconds = steady_seconds;
  is_terminal_ = options_.is_terminal.value_or(options_.stream == nullptr && isatty(STDERR_FILENO));
  if (options_.file.empty()) return;
  file_.open(options_.file, std::ios::app);
  if (!file_)
    throw IoError(fmt::format("{}: cannot open the log: {}", options_.file.string(),
                              std::generic_category().message(errno)));
}

Log::~Log() {
  if (progress_shown_) stream_ << '\n' << std::flush;
}

void Log::line(std::string_view text) {
  if (!options_.quiet) {
    clear_progress();
    stream_ << text << '\n' << std::flush;
  }
  write_file(text);
}

void Log::progress(std::string_view stage, int64_t done, int64_t total, std::string_view extra) {
  const double now = options_.seconds();
  const bool is_new = stage != stage_ || done < stage_first_;
  if (is_new) {
    stage_ = stage;
    stage_first_ = done;
    stage_start_ = last_line_ = now;
  }
  const bool is_last = done >= total;
  const bool line_due = is_last || now - last_line_ >= kLineEverySeconds;
  const bool redraw_due =
      is_terminal_ && (is_new || is_last || now - last_redraw_ >= kRedrawEverySeconds);
  if (!line_due && !redraw_due) return;

  auto text = fmt::format("{} {}/{}", stage, done, total);
  if (!extra.empty()) text += fmt::format(" {}", extra);
  const double elapsed = now - stage_start_;
  if (is_last) {
    text += fmt::format(", {}", duration_text(elapsed));
  } else if (done > stage_first_) {
    const double per_step = elapsed / static_cast<double>(done - stage_first_);
    text += fmt::format(", {} left", duration_text(per_step * static_cast<double>(total - done)));
  }
  if (!options_.quiet) {
    if (redraw_due) {
      stream_ << "\r\033[K" << text << std::flush;
      progress_shown_ = true;
      last_redraw_ = now;
      if (is_last) {  // stays on the screen
        stream_ << '\n' << std::flush;
        progress_shown_ = false;
      }
    } else if (!is_terminal_) {
      stream_ << text << '\n' << std::flush;
    }
  }
  if (line_due) {
    write_file(text);
    last_line_ = now;
  }
}

void Log::clear_progress() {
  if (progress_shown_) stream_ << "\r\033[K";
  progress_shown_ = false;
}

void Log::write_file(std::string_view text) {
  if (!file_.is_open()) return;
  errno = 0;
  file_ << utc_now() << ' ' << text << '\n' << std::flush;
  if (!file_)
    throw IoError(fmt::format("{}: cannot write the log: {}", options_.file.string(),
                              std::generic_category().message(errno)));
}

}  // namespace evariste
