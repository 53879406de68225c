#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>

namespace outrider {

/// A regular file mapped for reading; valid while this object lives.
class MappedFile {
 public:
  /// Throws kFileNotFound, kFileUnreadable, or kInvalidFile for a Git LFS pointer.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  /// Nothing for an empty file.
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  explicit MappedFile(std::span<const std::byte> bytes) : bytes_(bytes) {}

  std::span<const std::byte> bytes_;
};

}  // namespace outrider
