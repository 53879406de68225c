#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace outrider {

/// A file that is open for reading; -1 owns nothing.
class FileDescriptor {
 public:
  explicit FileDescriptor(int number = -1) : number_(number) {}
  FileDescriptor(FileDescriptor&& other) noexcept : number_(other.release()) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  ~FileDescriptor();

  int number() const { return number_; }
  int release() noexcept;

 private:
  int number_;
};

/// Opens a regular file that nobody but root and this user can change: it is no symbolic link, it
/// and every folder above it are owned by root or this user, and group and others may not write to
/// them (a sticky folder of root's passes). Throws kPluginNotFound or kPluginUntrusted, with all
/// reasons.
FileDescriptor open_trusted(const std::filesystem::path& path);

/// The whole file, read once. Throws kPluginUntrusted over 1 GiB, kFileUnreadable.
std::vector<std::byte> read_whole(const FileDescriptor& file, const std::filesystem::path& path);

}  // namespace outrider
