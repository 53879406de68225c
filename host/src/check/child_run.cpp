#include "check/child_run.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "outrider/error.h"

namespace outrider::check {
namespace {

class Pipe {
 public:
  Pipe() {
    if (::pipe2(ends_, O_CLOEXEC) != 0) {
      throw Error(ErrorCode::kInternal, fmt::format("cannot create a pipe: {}", strerror(errno)));
    }
  }
  ~Pipe() {
    close_reader();
    close_writer();
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;

  int reader() const { return ends_[0]; }
  int writer() const { return ends_[1]; }
  void close_reader() { close_end(ends_[0]); }
  void close_writer() { close_end(ends_[1]); }

 private:
  static void close_end(int& end) {
    if (end >= 0) ::close(std::exchange(end, -1));
  }
  int ends_[2] = {-1, -1};
};

void send_line(int descriptor, std::string line) {
  line += '\n';
  for (size_t sent = 0; sent < line.size();) {
    const auto count = ::write(descriptor, line.data() + sent, line.size() - sent);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) ::_exit(1);  // nobody listens any more
    sent += static_cast<size_t>(count);
  }
}

[[noreturn]] void be_the_child(
    Pipe& pipe, const std::function<void(const std::function<void(std::string)>&)>& work) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  ::dup2(STDERR_FILENO, STDOUT_FILENO);
  pipe.close_reader();
  try {
    work([&](std::string line) { send_line(pipe.writer(), std::move(line)); });
  } catch (...) {
    ::_exit(70);
  }
  ::_exit(0);
}

enum class Received { kBytes, kEnd, kNothing };

Received receive_into(std::string& buffer, int descriptor, double timeout_seconds) {
  pollfd wait{descriptor, POLLIN, 0};
  const int milliseconds = timeout_seconds > 0 ? static_cast<int>(timeout_seconds * 1000) : -1;
  const int ready = ::poll(&wait, 1, milliseconds);
  if (ready == 0) return Received::kNothing;
  char bytes[1 << 14];
  const auto count = ready < 0 ? ready : ::read(descriptor, bytes, sizeof(bytes));
  if (count < 0) return errno == EINTR ? Received::kBytes : Received::kEnd;
  if (count == 0) return Received::kEnd;
  buffer.append(bytes, static_cast<size_t>(count));
  return Received::kBytes;
}

void take_lines(std::string& buffer, const std::function<void(const std::string&)>& receive) {
  for (size_t end; (end = buffer.find('\n')) != std::string::npos;) {
    receive(buffer.substr(0, end));
    buffer.erase(0, end + 1);
  }
}

std::string end_of(pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFSIGNALED(status)) return fmt::format("exit status {}", WEXITSTATUS(status));
  return fmt::format("signal {} ({})", WTERMSIG(status), strsignal(WTERMSIG(status)));
}

}  // namespace

std::string run_in_child(const std::function<void(const std::function<void(std::string)>&)>& work,
                         const std::function<void(const std::string&)>& receive,
                         double timeout_seconds) {
  Pipe pipe;
  std::fflush(nullptr);  // or the child would write what is buffered a second time
  const pid_t child = ::fork();
  if (child < 0) {
    throw Error(ErrorCode::kInternal, fmt::format("cannot fork: {}", strerror(errno)));
  }
  if (child == 0) be_the_child(pipe, work);
  pipe.close_writer();
  std::string buffer;
  for (;;) {
    const auto received = receive_into(buffer, pipe.reader(), timeout_seconds);
    take_lines(buffer, receive);
    if (received == Received::kBytes) continue;
    if (received == Received::kNothing) ::kill(child, SIGKILL);
    const auto end = end_of(child);
    if (received == Received::kEnd) return end;
    return fmt::format("killed because nothing happened for {:g} s", timeout_seconds);
  }
}

}  // namespace outrider::check
