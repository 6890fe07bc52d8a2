#include "io/log.h"

#include <sstream>

#include "core/error.h"
#include "io/atomic_file.h"
#include "io/interrupt.h"
#include "io/utc.h"
#include "tests/catch.h"
#include "tests/io/temporary_folder.h"

using namespace evariste;

namespace {

/// A log on a string, with a clock that the test sets.
struct Recorded {
  std::ostringstream text;
  double now = 0;

  LogOptions options(bool is_terminal, std::filesystem::path file = {}, bool quiet = false) {
    return {std::move(file), quiet, &text, is_terminal, [this] { return now; }};
  }
};

}  // namespace

TEST_CASE("a line goes to the stream, and with the time to run.log", "[io][log]") {
  const TemporaryFolder folder;
  Recorded out;
  {
    Log log(out.options(false, folder / "run.log"));
    log.line("first");
  }
  Log log(out.options(false, folder / "run.log"));  // a resumed run appends
  log.line("second");
  CHECK(out.text.str() == "first\nsecond\n");
  const auto text = read_file(folder / "run.log");
  CHECK(text.size() == 2 * utc_now().size() + std::string(" first\n second\n").size());
  CHECK_THAT(text, Contains("Z first\n") && Contains("Z second\n"));
}

TEST_CASE("quiet keeps run.log and silences the rest", "[io][log]") {
  const TemporaryFolder folder;
  Recorded out;
  Log log(out.options(true, folder / "run.log", true));
  log.line("a line");
  log.progress("train", 1, 1);
  CHECK(out.text.str().empty());
  CHECK_THAT(read_file(folder / "run.log"), Contains("a line") && Contains("train 1/1"));
}

TEST_CASE("off a terminal progress is a line every 30 seconds, and the last", "[io][log]") {
  Recorded out;
  Log log(out.options(false));
  for (int step = 0; step <= 100; ++step) {
    out.now = step;
    log.progress("train", step, 100, "loss 0.5");
  }
  CHECK(out.text.str() ==
        "train 30/100 loss 0.5, 1 min 10 s left\n"
        "train 60/100 loss 0.5, 40 s left\n"
        "train 90/100 loss 0.5, 10 s left\n"
        "train 100/100 loss 0.5, 1 min 40 s\n");
}

TEST_CASE("a resumed stage predicts from its own steps", "[io][log]") {
  Recorded out;
  Log log(out.options(false));
  log.progress("train", 90, 100);
  out.now = 40;
  log.progress("train", 92, 100);
  CHECK(out.text.str() == "train 92/100, 2 min 40 s left\n");
}

TEST_CASE("on a terminal one line is redrawn and gives way to lines", "[io][log]") {
  Recorded out;
  Log log(out.options(true));
  log.progress("train", 0, 2);
  out.now = 0.01;
  log.progress("train", 1, 2);  // too soon to redraw
  log.line("a line");
  out.now = 1;
  log.progress("train", 2, 2);
  CHECK(out.text.str() == "\r\033[Ktrain 0/2\r\033[Ka line\n\r\033[Ktrain 2/2, 1 s\n");
}

TEST_CASE("a log that cannot be written is an I/O error", "[io][log]") {
  const TemporaryFolder folder;
  Recorded out;
  CHECK_THROWS_WITH(Log(out.options(false, folder / "none" / "run.log")), Contains("none/run.log"));
  Log log(out.options(false, "/dev/full"));
  CHECK_THROWS_WITH(log.line("x"), Contains("No space left on device"));
}

TEST_CASE("durations read as people say them", "[io][log]") {
  CHECK(duration_text(45.2) == "45 s");
  CHECK(duration_text(200) == "3 min 20 s");
  CHECK(duration_text(7500) == "2 h 5 min");
}

TEST_CASE("the first signal sets a flag, the second kills", "[io][interrupt]") {
  for (const int signal : {SIGINT, SIGTERM}) {
    CAPTURE(signal);
    {
      const InterruptGuard guard;
      CHECK(interrupt_signal() == 0);
      CHECK_NOTHROW(throw_if_interrupted());
      raise(signal);
      CHECK(interrupt_signal() == signal);
      try {
        throw_if_interrupted();
        FAIL("not thrown");
      } catch (const Interrupted& interrupted) {
        CHECK(interrupted.exit_code() == 128 + signal);
      }
    }
    const int status = status_of_child([signal] {
      const InterruptGuard guard;
      raise(SIGTERM);
      raise(signal);
      return 0;
    });
    CHECK(WIFSIGNALED(status));
    CHECK(WTERMSIG(status) == signal);
  }
}

TEST_CASE("after the guard a signal does what it did before", "[io][interrupt]") {
  const int status = status_of_child([] {
    signal(SIGTERM, SIG_DFL);  // Catch2 has a handler of its own
    { const InterruptGuard guard; }
    raise(SIGTERM);
    return 0;
  });
  CHECK(WIFSIGNALED(status));
}
