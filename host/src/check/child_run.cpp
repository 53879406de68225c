#include "check/child_run.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "machine/child_process.h"

namespace outrider::check {
namespace {

void send_line(int descriptor, std::string line) {
  line += '\n';
  for (size_t sent = 0; sent < line.size();) {
    const auto count = ::write(descriptor, line.data() + sent, line.size() - sent);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) ::_exit(1);  // nobody listens any more
    sent += static_cast<size_t>(count);
  }
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

std::string described(const ChildEnd& end) {
  if (!end.by_signal) return fmt::format("exit status {}", end.status);
  return fmt::format("signal {} ({})", end.status, strsignal(end.status));
}

void prepare_child() {
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  ::dup2(STDERR_FILENO, STDOUT_FILENO);
}

}  // namespace

std::string run_in_child(const std::function<void(const std::function<void(std::string)>&)>& work,
                         const std::function<void(const std::string&)>& receive,
                         double timeout_seconds) {
  ChildProcess child(
      [&](int writer) {
        prepare_child();
        work([&](std::string line) { send_line(writer, std::move(line)); });
        return 0;
      },
      SIGKILL);
  std::string buffer;
  for (;;) {
    const auto received = receive_into(buffer, child.connection(), timeout_seconds);
    take_lines(buffer, receive);
    if (received == Received::kBytes) continue;
    if (received == Received::kNothing) child.kill();
    const auto end = child.wait();
    if (received == Received::kEnd) return described(end);
    return fmt::format("killed because nothing happened for {:g} s", timeout_seconds);
  }
}

}  // namespace outrider::check
