#include "machine/claimed_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {

ClaimedFolder::ClaimedFolder(const std::filesystem::path& folder, const std::string& doing,
                             const std::string& hint)
    : descriptor_(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  // Any other reason than that one: a file system without locks.
  if (descriptor_ < 0 || ::flock(descriptor_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) {
    return;
  }
  ::close(descriptor_);
  throw Error(
      ErrorCode::kWriteFailed,
      fmt::format("{}: another process is {} in this folder", in_quotes(folder.string()), doing),
      hint);
}

ClaimedFolder::~ClaimedFolder() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

}  // namespace outrider
