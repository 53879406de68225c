#pragma once

#include <filesystem>

namespace outrider {

/// A new private folder among the machine's temporary files, removed with the object.
class ScratchFolder {
 public:
  /// Throws kWriteFailed.
  ScratchFolder();
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  std::filesystem::path operator/(const char* name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

}  // namespace outrider
