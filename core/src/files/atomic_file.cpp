#include "outrider/files/atomic_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <ostream>
#include <random>
#include <streambuf>
#include <utility>

#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;

Error failure(const std::string& what, const fs::path& path, int reason) {
  const bool full = reason == ENOSPC || reason == EDQUOT;
  return Error(ErrorCode::kWriteFailed,
               fmt::format("{} {}: {}", what, in_quotes(path.string()), std::strerror(reason)),
               full ? "free some space, or choose a folder on another disk" : "");
}

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const { return value_; }
  /// The error number of close(), at which some file systems report a failed write.
  int close() { return ::close(std::exchange(value_, -1)) == 0 ? 0 : errno; }

 private:
  int value_;
};

/// Keeps the reason why a write failed, which std::ofstream does not.
class DescriptorBuffer final : public std::streambuf {
 public:
  explicit DescriptorBuffer(int descriptor) : descriptor_(descriptor) { reset(); }
  int error() const { return error_; }

 protected:
  int_type overflow(int_type c) override {
    if (sync() != 0) return traits_type::eof();
    if (!traits_type::eq_int_type(c, traits_type::eof())) sputc(traits_type::to_char_type(c));
    return traits_type::not_eof(c);
  }

  std::streamsize xsputn(const char* text, std::streamsize size) override {
    if (size < epptr() - pptr()) return std::streambuf::xsputn(text, size);
    return sync() == 0 && write_all(text, static_cast<size_t>(size)) ? size : 0;
  }

  int sync() override {
    const bool written = write_all(pbase(), static_cast<size_t>(pptr() - pbase()));
    reset();
    return written ? 0 : -1;
  }

 private:
  void reset() { setp(buffer_.data(), buffer_.data() + buffer_.size()); }

  bool write_all(const char* text, size_t size) {
    while (size > 0) {
      const ssize_t written = ::write(descriptor_, text, size);
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) {
        error_ = errno;
        return false;
      }
      text += written;
      size -= static_cast<size_t>(written);
    }
    return true;
  }

  int descriptor_, error_ = 0;
  std::array<char, 1 << 16> buffer_;
};

/// A name beside `path` that says what it is left over from, should the process be killed.
fs::path temporary_name(const fs::path& path) {
  constexpr size_t kLongestStem = 200;
  const auto name = path.filename().string().substr(0, kLongestStem);
  return path.parent_path() /
         fmt::format(".{}.tmp-{}-{:08x}", name, ::getpid(), std::random_device()());
}

/// Calls `create` with temporary names until one was free; it returns as system calls do.
template <class Create>
std::pair<fs::path, int> create_temporary(const fs::path& path, Create create) {
  for (;;) {
    fs::path name = temporary_name(path);
    const int result = create(name.c_str());
    if (result >= 0) return {std::move(name), result};
    if (errno != EEXIST) throw failure("cannot write", path, errno);
  }
}

void sync_path(const fs::path& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  // EINVAL: a file system that cannot sync this kind of file.
  if (file.get() < 0 || (::fsync(file.get()) != 0 && errno != EINVAL)) {
    throw failure("cannot sync", path, errno);
  }
}

void sync_parent(const fs::path& path) {
  sync_path(path.has_parent_path() ? path.parent_path() : fs::path("."));
}

void sync_tree(const fs::path& folder) {
  std::error_code error;
  for (fs::recursive_directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    const auto type = it->symlink_status(error).type();
    if (type == fs::file_type::regular || type == fs::file_type::directory) sync_path(it->path());
  }
  if (error) throw failure("cannot read", folder, error.value());
  sync_path(folder);
}

void write_and_sync(const fs::path& path, Descriptor& file,
                    const std::function<void(std::ostream&)>& write) {
  DescriptorBuffer buffer(file.get());
  std::ostream out(&buffer);
  write(out);
  out.flush();
  if (!out) throw failure("cannot write", path, buffer.error() ? buffer.error() : EIO);
  if (::fsync(file.get()) != 0 && errno != EINVAL) throw failure("cannot sync", path, errno);
  if (const int reason = file.close()) throw failure("cannot write", path, reason);
}

bool is_empty_folder(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error) && fs::is_empty(path, error) && !error;
}

void check_target(const fs::path& path, bool replace) {
  std::error_code error;
  if (fs::symlink_status(path, error).type() == fs::file_type::not_found) return;
  if (is_empty_folder(path)) return;
  if (!fs::is_directory(path, error)) {
    throw Error(ErrorCode::kFileExists, in_quotes(path.string()) + " exists and is not a folder",
                "name a folder that does not exist yet");
  }
  if (replace) return;
  throw Error(ErrorCode::kFileExists, in_quotes(path.string()) + " exists and is not empty",
              "choose another folder, or allow that this one is replaced");
}

/// `rename` for file systems that cannot exchange: the old folder is moved aside, and back if the
/// new one cannot take its place.
void replace_by_renaming(const fs::path& staging, const fs::path& path) {
  const fs::path aside = temporary_name(path);
  if (::rename(path.c_str(), aside.c_str()) != 0) throw failure("cannot replace", path, errno);
  if (::rename(staging.c_str(), path.c_str()) != 0) {
    const int reason = errno;
    ::rename(aside.c_str(), path.c_str());
    throw failure("cannot replace", path, reason);
  }
  ::rename(aside.c_str(), staging.c_str());
}

/// Afterwards `path` is the new folder and `staging`, where there was an old one, the old.
void put_in_place(const fs::path& staging, const fs::path& path) {
  const auto rename = [&](unsigned flags) {
    return ::renameat2(AT_FDCWD, staging.c_str(), AT_FDCWD, path.c_str(), flags) == 0;
  };
  const auto unsupported = [] { return errno == EINVAL || errno == ENOSYS; };
  if (rename(RENAME_EXCHANGE)) return;
  if (errno == ENOENT) {
    if (rename(RENAME_NOREPLACE) || (unsupported() && rename(0))) return;
  } else if (unsupported()) {
    std::error_code error;
    if (fs::exists(fs::symlink_status(path, error))) return replace_by_renaming(staging, path);
    if (rename(0)) return;
  }
  throw failure("cannot create", path, errno);
}

fs::path without_trailing_slash(const fs::path& path) {
  fs::path normal = path.lexically_normal();
  if (!normal.has_filename()) normal = normal.parent_path();
  if (normal.empty() || normal == "." || normal.filename() == ".." || !normal.has_filename()) {
    throw Error(ErrorCode::kInvalidArgument,
                in_quotes(path.string()) + " does not name a new folder",
                "give the folder a name of its own");
  }
  return normal;
}

void check_parent(const fs::path& path) {
  const fs::path parent = path.has_parent_path() ? path.parent_path() : fs::path(".");
  std::error_code error;
  if (fs::is_directory(parent, error)) return;
  throw Error(ErrorCode::kFileNotFound,
              fmt::format("cannot create {}: there is no folder {}", in_quotes(path.string()),
                          in_quotes(parent.string())),
              "create it first, or check the spelling");
}

/// `prepare` gets the descriptor of the new file, opened with `mode`, before anything is written.
void write_and_rename(const fs::path& path, mode_t mode, const std::function<void(int)>& prepare,
                      const std::function<void(std::ostream&)>& write) {
  const auto [temporary, descriptor] = create_temporary(path, [mode](const char* name) {
    return ::open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
  });
  try {
    Descriptor file(descriptor);
    prepare(file.get());
    write_and_sync(path, file, write);
    if (::rename(temporary.c_str(), path.c_str()) != 0) throw failure("cannot write", path, errno);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  sync_parent(path);
}

}  // namespace

void write_file_atomically(const std::filesystem::path& path,
                           const std::function<void(std::ostream&)>& write) {
  write_and_rename(
      path, 0666, [](int) {}, write);
}

void write_file_atomically(const std::filesystem::path& path, std::filesystem::perms permissions,
                           const std::function<void(std::ostream&)>& write) {
  const auto mode = static_cast<mode_t>(permissions);
  write_and_rename(
      path, mode & 0600,
      [&](int descriptor) {
        if (::fchmod(descriptor, mode) != 0) throw failure("cannot write", path, errno);
      },
      write);
}

AtomicDirectory::AtomicDirectory(const std::filesystem::path& path, bool replace)
    : path_(without_trailing_slash(path)), replace_(replace) {
  check_parent(path_);
  check_target(path_, replace_);
  staging_ = create_temporary(path_, [](const char* name) { return ::mkdir(name, 0777); }).first;
}

AtomicDirectory::~AtomicDirectory() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(staging_, ignored);
}

void AtomicDirectory::commit() {
  check_target(path_, replace_);
  sync_tree(staging_);
  put_in_place(staging_, path_);
  committed_ = true;
  sync_parent(path_);
  // The new folder is whole whether or not what remains of the old one can be removed.
  std::error_code ignored;
  fs::remove_all(staging_, ignored);
}

}  // namespace outrider
