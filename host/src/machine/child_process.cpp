#include "machine/child_process.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <system_error>
#include <utility>

namespace outrider {
namespace {

[[noreturn]] void fail_to_start(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

[[noreturn]] void be_the_child(const std::function<int(int)>& work, int connection,
                               int death_signal) {
  ::prctl(PR_SET_PDEATHSIG, death_signal);
  int status = 70;
  try {
    status = work(connection);
  } catch (...) {  // the parent learns of it from the status
  }
  ::_exit(status);
}

}  // namespace

ChildProcess::ChildProcess(const std::function<int(int)>& work, int death_signal) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    fail_to_start("cannot create a connection");
  }
  std::fflush(nullptr);  // or the child would write what is buffered a second time
  child_ = ::fork();
  if (child_ == 0) {
    ::close(ends[0]);
    be_the_child(work, ends[1], death_signal);
  }
  const int fault = errno;
  ::close(ends[1]);
  connection_ = ends[0];
  if (child_ > 0) return;
  ::close(connection_);
  errno = fault;
  fail_to_start("cannot start a process");
}

ChildProcess::~ChildProcess() {
  ::close(connection_);
  if (child_ > 0) wait();
}

void ChildProcess::kill() { ::kill(child_, SIGKILL); }

ChildEnd ChildProcess::wait() {
  int status = 0;
  while (::waitpid(child_, &status, 0) < 0 && errno == EINTR) {
  }
  child_ = -1;
  if (WIFSIGNALED(status)) return {WTERMSIG(status), true};
  return {WEXITSTATUS(status), false};
}

}  // namespace outrider
