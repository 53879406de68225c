#include "plugins/trust.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {
namespace {

constexpr off_t kMaxBytes = off_t{1} << 30;

std::string shown(const std::filesystem::path& path) { return printable(path.string()); }

[[noreturn]] void distrust(const std::filesystem::path& path,
                           const std::vector<std::string>& reasons) {
  throw Error(ErrorCode::kPluginUntrusted,
              fmt::format("plugin {} is not trusted: {}", shown(path), join(reasons, "; ")),
              "a plugin must be a regular file that only you or root can change, in folders of the "
              "same kind: see `chmod go-w` and `chown`");
}

void check_owner_and_mode(const struct stat& status, const std::filesystem::path& path,
                          std::vector<std::string>& reasons) {
  if (status.st_uid != 0 && status.st_uid != geteuid()) {
    reasons.push_back(fmt::format("{} belongs to user {}", shown(path), status.st_uid));
  }
  const bool is_shared_by_root =
      S_ISDIR(status.st_mode) && (status.st_mode & S_ISVTX) != 0 && status.st_uid == 0;
  if ((status.st_mode & (S_IWGRP | S_IWOTH)) != 0 && !is_shared_by_root) {
    reasons.push_back(fmt::format("{} can be written to by {}", shown(path),
                                  status.st_mode & S_IWOTH ? "everyone" : "its group"));
  }
}

void check_folders(const std::filesystem::path& folder, std::vector<std::string>& reasons) {
  for (auto path = folder;; path = path.parent_path()) {
    struct stat status {};
    if (lstat(path.c_str(), &status) != 0) {
      reasons.push_back(fmt::format("{}: {}", shown(path), std::strerror(errno)));
    } else {
      check_owner_and_mode(status, path, reasons);
    }
    if (path == path.root_path()) return;
  }
}

/// O_NONBLOCK: opening a named pipe must not wait for a writer.
FileDescriptor open_for_reading(const std::filesystem::path& path) {
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (file.number() >= 0) return file;
  if (errno == ELOOP) distrust(path, {"it is a symbolic link"});
  throw Error(errno == ENOENT ? ErrorCode::kPluginNotFound : ErrorCode::kFileUnreadable,
              fmt::format("plugin {}: {}", shown(path), std::strerror(errno)));
}

}  // namespace

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  std::swap(number_, other.number_);
  return *this;
}

FileDescriptor::~FileDescriptor() {
  if (number_ >= 0) ::close(number_);
}

int FileDescriptor::release() noexcept { return std::exchange(number_, -1); }

FileDescriptor open_trusted(const std::filesystem::path& path) {
  std::error_code error;
  const auto folder =
      std::filesystem::canonical(std::filesystem::absolute(path).parent_path(), error);
  if (error) {
    throw Error(ErrorCode::kPluginNotFound,
                fmt::format("plugin {}: {}", shown(path), error.message()));
  }
  auto file = open_for_reading(folder / path.filename());
  struct stat status {};
  std::vector<std::string> reasons;
  if (fstat(file.number(), &status) != 0 || !S_ISREG(status.st_mode)) {
    distrust(path, {"it is no regular file"});
  }
  check_owner_and_mode(status, path, reasons);
  check_folders(folder, reasons);
  if (!reasons.empty()) distrust(path, reasons);
  return file;
}

std::vector<std::byte> read_whole(const FileDescriptor& file, const std::filesystem::path& path) {
  struct stat status {};
  fstat(file.number(), &status);
  if (status.st_size > kMaxBytes) {
    distrust(path, {fmt::format("it has {} bytes, more than {}", status.st_size, kMaxBytes)});
  }
  std::vector<std::byte> content(static_cast<size_t>(status.st_size));
  for (size_t done = 0; done < content.size();) {
    const auto count = ::pread(file.number(), content.data() + done, content.size() - done,
                               static_cast<off_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      throw Error(ErrorCode::kFileUnreadable,
                  fmt::format("plugin {}: {}", shown(path),
                              count < 0 ? std::strerror(errno) : "it shrank while it was read"));
    }
    done += static_cast<size_t>(count);
  }
  return content;
}

}  // namespace outrider
