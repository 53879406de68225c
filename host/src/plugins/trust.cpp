#include "plugins/trust.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <set>
#include <string_view>
#include <utility>

#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {
namespace {

constexpr off_t kMaxBytes = off_t{1} << 30;

std::string shown(const std::filesystem::path& path) { return printable(path.string()); }

[[noreturn]] void distrust(const std::filesystem::path& path,
                           const std::vector<std::string>& reasons,
                           const std::string& hint =
                               "a plugin must be a regular file that only you or root can change, "
                               "in folders of the same kind: see `chmod go-w` and `chown`") {
  throw Error(ErrorCode::kPluginUntrusted,
              fmt::format("plugin {} is not trusted: {}", shown(path), join(reasons, "; ")), hint);
}

bool holds(const std::filesystem::path& folder, const char* name) {
  struct stat status {};
  return lstat((folder / name).c_str(), &status) == 0;
}

bool is_weights_file(std::string_view name) {
  return name.ends_with(".safetensors") || name == "pytorch_model.bin" ||
         name == "pytorch_model.bin.index.json";
}

/// The files that make a folder a checkpoint or a data folder, empty for any other. A config.json
/// alone may be anybody's.
std::string telling_files(const std::filesystem::path& folder) {
  for (const char* name : {"outrider_state.json", "modelopt_state.pth", "shards.json"}) {
    if (holds(folder, name)) return name;
  }
  if (!holds(folder, "config.json")) return "";
  std::set<std::string> weights;
  std::error_code error;
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    auto name = it->path().filename().string();
    if (is_weights_file(name)) weights.insert(std::move(name));
  }
  return weights.empty() ? "" : "config.json and " + printable(*weights.begin());
}

/// A folder for temporary files, such as /tmp.
bool is_shared_by_root(const struct stat& status) {
  return S_ISDIR(status.st_mode) && (status.st_mode & S_ISVTX) != 0 && status.st_uid == 0;
}

/// Files in a checkpoint come from whoever made it: nothing in it is ever run.
void check_not_among_data(const std::filesystem::path& plugin,
                          const std::filesystem::path& folder) {
  std::vector<std::string> reasons;
  for (auto path = folder;; path = path.parent_path()) {
    struct stat status {};
    // Anybody can put a file into a shared folder: it says nothing about what lies beside it.
    const bool is_shared = lstat(path.c_str(), &status) == 0 && is_shared_by_root(status);
    const auto files = is_shared ? "" : telling_files(path);
    if (!files.empty()) {
      reasons.push_back(
          fmt::format("{} is a checkpoint or data folder: it holds {}", shown(path), files));
    }
    if (path == path.root_path()) break;
  }
  if (reasons.empty()) return;
  distrust(
      plugin, reasons,
      "nothing below such a folder is run: if you know where the plugin comes from, move it to "
      "another folder and run `outrider plugin add FILE`");
}

void check_owner_and_mode(const struct stat& status, const std::filesystem::path& path,
                          std::vector<std::string>& reasons) {
  if (status.st_uid != 0 && status.st_uid != geteuid()) {
    reasons.push_back(fmt::format("{} belongs to user {}", shown(path), status.st_uid));
  }
  if ((status.st_mode & (S_IWGRP | S_IWOTH)) != 0 && !is_shared_by_root(status)) {
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

std::filesystem::path real_path(const std::filesystem::path& path,
                                const std::filesystem::path& plugin) {
  std::error_code error;
  auto real = std::filesystem::canonical(path, error);
  if (!error) return real;
  throw Error(ErrorCode::kPluginNotFound,
              fmt::format("plugin {}: {}", shown(plugin), error.message()));
}

struct stat status_of_regular(const FileDescriptor& file, const std::filesystem::path& path) {
  struct stat status {};
  if (fstat(file.number(), &status) != 0 || !S_ISREG(status.st_mode)) {
    distrust(path, {"it is no regular file"});
  }
  return status;
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
  const auto folder = real_path(std::filesystem::absolute(path).parent_path(), path);
  auto file = open_for_reading(folder / path.filename());
  std::vector<std::string> reasons;
  check_owner_and_mode(status_of_regular(file, path), path, reasons);
  check_folders(folder, reasons);
  if (!reasons.empty()) distrust(path, reasons);
  check_not_among_data(path, folder);
  return file;
}

FileDescriptor open_source(const std::filesystem::path& path) {
  const auto real = real_path(std::filesystem::absolute(path), path);
  auto file = open_for_reading(real);
  status_of_regular(file, path);
  check_not_among_data(path, real.parent_path());
  return file;
}

void check_trusted_folder(const std::filesystem::path& folder) {
  const auto real = real_path(folder, folder);
  std::vector<std::string> reasons;
  check_folders(real, reasons);
  if (!reasons.empty()) distrust(folder, reasons);
  check_not_among_data(folder, real);
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
