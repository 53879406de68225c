#pragma once

#include <filesystem>
#include <string>

#include "outrider/api.h"

namespace outrider {

/// A folder in which one process at a time works, while the object lives. Where the file system has
/// no locks it is nobody's.
class OUTRIDER_API ClaimedFolder {
 public:
  /// Throws kWriteFailed where another process has it: "'FOLDER': another process is `doing` in
  /// this folder".
  ClaimedFolder(const std::filesystem::path& folder, const std::string& doing,
                const std::string& hint);
  ~ClaimedFolder();
  ClaimedFolder(const ClaimedFolder&) = delete;
  ClaimedFolder& operator=(const ClaimedFolder&) = delete;

 private:
  int descriptor_;
};

}  // namespace outrider
