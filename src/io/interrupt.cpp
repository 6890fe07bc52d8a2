#include "io/interrupt.h"

#include <atomic>

#include "core/error.h"

namespace evariste {
namespace {

// The one thing a signal handler can reach; lock-free, so it may be written there.
std::atomic<int> received{0};
static_assert(std::atomic<int>::is_always_lock_free);
constexpr std::array kSignals = {SIGINT, SIGTERM};

extern "C" void on_signal(int signal) {
  if (received.exchange(signal) == 0) return;
  std::signal(signal, SIG_DFL);
  std::raise(signal);  // delivered when the handler returns
}

}  // namespace

InterruptGuard::InterruptGuard() {
  received = 0;
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;  // no half-done reads and writes
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &action, &previous_[i]);
}

InterruptGuard::~InterruptGuard() {
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &previous_[i], nullptr);
}

int interrupt_signal() { return received; }

void throw_if_interrupted() {
  if (const int signal = received) throw Interrupted(signal);
}

}  // namespace evariste
