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

/// A fork of this process and the pipe that it writes to. The child dies with this process.
class OUTRIDER_API ChildProcess {
 public:
  /// Runs `work` in the child with the pipe's writing end; the child ends with what it returns.
  /// Whatever throws there ends it with 70. `death_signal` is what it gets when this process dies.
  /// Throws std::system_error where the machine allows no pipe or process.
  ChildProcess(const std::function<int(int writer)>& work, int death_signal);
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  /// What the child writes, to be read until its end.
  int output() const { return reader_; }
  void kill();
  ChildEnd wait();

 private:
  int reader_ = -1;
  pid_t child_ = -1;
};

}  // namespace outrider
