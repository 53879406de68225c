#pragma once

#include <sys/types.h>

#include <functional>
#include <string>

#include "outrider/api.h"

namespace outrider {

/// How a child process ended.
struct ChildEnd {
  int status = 0;  // exit status, or the number of the signal
  bool by_signal = false;
};

/// A fork of this process, with a connection both ways. The child dies with this process.
class OUTRIDER_API ChildProcess {
 public:
  /// Runs `work` in the child with its end of the connection; the child ends with what it returns.
  /// Whatever throws there ends it with 70. `death_signal` is what it gets when this process dies.
  /// Throws std::system_error where the machine allows no connection or process.
  ChildProcess(const std::function<int(int connection)>& work, int death_signal);
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  /// A socket with what the child writes, until its end, and for what it reads.
  int connection() const { return connection_; }
  void kill();
  ChildEnd wait();

 private:
  int connection_ = -1;
  pid_t child_ = -1;
};

}  // namespace outrider
