#include "trainer/interrupt.h"

#include <unistd.h>

#include <atomic>

namespace outrider {
namespace {

std::atomic<int> caught_signal{0};
static_assert(std::atomic<int>::is_always_lock_free, "used in a signal handler");

extern "C" void outrider_catch_signal(int signal_number) {
  if (caught_signal.exchange(signal_number) != 0) _exit(128 + signal_number);
}

}  // namespace

InterruptScope::InterruptScope() {
  caught_signal = 0;
  struct sigaction action = {};
  action.sa_handler = outrider_catch_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &before_int_);
  sigaction(SIGTERM, &action, &before_term_);
}

InterruptScope::~InterruptScope() {
  sigaction(SIGINT, &before_int_, nullptr);
  sigaction(SIGTERM, &before_term_, nullptr);
}

bool InterruptScope::requested() const { return caught_signal != 0; }

}  // namespace outrider
