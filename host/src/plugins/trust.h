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
/// them (a sticky folder of root's passes). None of these folders is a checkpoint or a data folder:
/// one with outrider_state.json, modelopt_state.pth or shards.json, or with config.json and weights
/// beside it. Throws kPluginNotFound or kPluginUntrusted, with all reasons.
FileDescriptor open_trusted(const std::filesystem::path& path);

/// Opens a regular file, or what a symbolic link leads to, to take a copy of it: whoever can change
/// it, but not out of a checkpoint or a data folder. Throws kPluginNotFound, kPluginUntrusted.
FileDescriptor open_source(const std::filesystem::path& path);

/// Throws kPluginUntrusted unless plugins in this folder pass open_trusted().
void check_trusted_folder(const std::filesystem::path& folder);

/// The whole file, read once. Throws kPluginUntrusted over 1 GiB, kFileUnreadable.
std::vector<std::byte> read_whole(const FileDescriptor& file, const std::filesystem::path& path);

}  // namespace outrider
