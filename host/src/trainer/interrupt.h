#pragma once

#include <signal.h>

#include "outrider/api.h"

namespace outrider {

/// Catches SIGINT and SIGTERM for its lifetime: the first is only noted, so that work can be
/// brought to a safe end; the second ends the process at once. One at a time.
class OUTRIDER_API InterruptScope {
 public:
  InterruptScope();
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

  bool requested() const;

 private:
  struct sigaction before_int_, before_term_;
};

}  // namespace outrider
