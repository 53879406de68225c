#pragma once

#include <filesystem>
#include <functional>
#include <iosfwd>
#include <string>

#include "outrider/api.h"

namespace outrider {

/// Calls `write` with a temporary file beside `path`, syncs it to disk and renames it into place:
/// at any moment `path` is the old file or the new one. Throws kWriteFailed (disk full, no
/// permission) and then leaves no temporary file behind; an exception of `write` is passed on.
OUTRIDER_API void write_file_atomically(const std::filesystem::path& path,
                                        const std::function<void(std::ostream&)>& write);

/// The same with exactly these permissions from the start, whatever the umask.
OUTRIDER_API void write_file_atomically(const std::filesystem::path& path,
                                        std::filesystem::perms permissions,
                                        const std::function<void(std::ostream&)>& write);

/// A folder that appears whole or not at all: files go to a temporary folder beside `path`, and
/// commit() syncs and renames it. A destructor without commit() removes what was written.
class OUTRIDER_API AtomicDirectory {
 public:
  /// Throws kFileExists if `path` exists and is not an empty folder (with `replace`: not a folder),
  /// kFileNotFound if its parent does not exist, kInvalidArgument for "." and the like.
  explicit AtomicDirectory(const std::filesystem::path& path, bool replace = false);
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  /// Where to write until commit().
  const std::filesystem::path& staging() const { return staging_; }
  /// Throws kWriteFailed, or kFileExists if somebody filled `path` in the meantime.
  void commit();

 private:
  std::filesystem::path path_, staging_;
  bool replace_ = false, committed_ = false;
};

}  // namespace outrider
