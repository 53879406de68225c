#pragma once

#include <functional>

#include "outrider/api.h"
#include "outrider/error.h"

namespace outrider {

/// What writing does where the disk is full.
struct Patience {
  double seconds = 0;                                 // of waiting
  std::function<bool()> has_room;                     // whether another try may succeed
  std::function<bool()> stop;                         // nobody wants to wait any longer
  std::function<void(const Error& failure)> on_wait;  // once, before the first wait
};

/// Calls `write` until it does not throw kWriteFailed, as room appears; when the time is over, the
/// last failure is thrown.
OUTRIDER_API void write_patiently(const std::function<void()>& write, const Patience& patience);

}  // namespace outrider
