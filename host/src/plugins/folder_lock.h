#pragma once

#include <filesystem>

#include "plugins/trust.h"

namespace outrider {

/// Held by the one process, and the one object in it, that changes a plugin store.
class FolderLock {
 public:
  /// Waits for at most half a minute. Throws kWriteFailed.
  explicit FolderLock(const std::filesystem::path& folder);

 private:
  FileDescriptor file_;
};

}  // namespace outrider
