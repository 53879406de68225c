#include "plugins/folder_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {
namespace {

using namespace std::chrono_literals;

constexpr auto kLongestWait = 30s;
constexpr auto kPause = 20ms;

[[noreturn]] void fail(const std::filesystem::path& folder, const std::string& what,
                       const std::string& hint = "") {
  throw Error(ErrorCode::kWriteFailed, fmt::format("{}: {}", in_quotes(folder.string()), what),
              hint);
}

}  // namespace

// A file of its own: network file systems do not lock folders, and plugins.lock.json is replaced.
FolderLock::FolderLock(const std::filesystem::path& folder)
    : file_(::open((folder / ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644)) {
  if (file_.number() < 0) fail(folder, fmt::format("cannot be locked: {}", std::strerror(errno)));
  const auto end = std::chrono::steady_clock::now() + kLongestWait;
  while (::flock(file_.number(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) {
      fail(folder, fmt::format("cannot be locked: {}", std::strerror(errno)));
    }
    if (std::chrono::steady_clock::now() > end) {
      fail(folder, "another process has been changing it for half a minute",
           "wait for it, or end it: nothing is lost");
    }
    std::this_thread::sleep_for(kPause);
  }
}

}  // namespace outrider
