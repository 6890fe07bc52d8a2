// Ctrl-C and SIGTERM as a flag, so that a run ends between two steps with its state saved.
#pragma once

#include <array>
#include <csignal>

namespace evariste {

/// While one lives, the first SIGINT or SIGTERM only sets a flag; a second one kills at once.
/// The handlers that were there before come back at the end. One at a time.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

 private:
  std::array<struct sigaction, 2> previous_{};
};

/// The signal that came since the last InterruptGuard was made, or 0.
int interrupt_signal();

/// Throws Interrupted where a signal came: call it after the state has been saved.
void throw_if_interrupted();

}  // namespace evariste
