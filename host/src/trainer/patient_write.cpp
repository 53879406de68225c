#include "trainer/patient_write.h"

#include <chrono>
#include <optional>
#include <thread>

namespace outrider {
namespace {

using WaitClock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kLookEvery{200};

std::optional<Error> failure_of(const std::function<void()>& write) {
  try {
    write();
    return std::nullopt;
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kWriteFailed) throw;
    return e;
  }
}

/// Whether there is a reason to try again before `end`.
bool wait_for_room(const Patience& patience, WaitClock::time_point end) {
  while (WaitClock::now() < end && !patience.stop()) {
    std::this_thread::sleep_for(kLookEvery);
    if (patience.has_room()) return true;
  }
  return false;
}

}  // namespace

void write_patiently(const std::function<void()>& write, const Patience& patience) {
  auto failure = failure_of(write);
  if (!failure) return;
  patience.on_wait(*failure);
  const auto end = WaitClock::now() + std::chrono::duration_cast<WaitClock::duration>(
                                          std::chrono::duration<double>(patience.seconds));
  while (failure && wait_for_room(patience, end)) failure = failure_of(write);
  if (failure) throw *failure;
}

}  // namespace outrider
