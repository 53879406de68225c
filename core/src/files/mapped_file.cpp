#include "mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "outrider/error.h"
#include "outrider/files/git_lfs.h"
#include "outrider/text.h"
#include "regular_file.h"

namespace outrider {

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path) {
  const size_t size = regular_file_size(path);
  if (size == 0) return std::shared_ptr<const MappedFile>(new MappedFile({}));
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  void* address = MAP_FAILED;
  if (descriptor >= 0) {
    address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  }
  const int reason = errno;
  if (descriptor >= 0) ::close(descriptor);
  if (address == MAP_FAILED) {
    throw Error(ErrorCode::kFileUnreadable,
                in_quotes(path.string()) + " cannot be mapped: " + std::strerror(reason));
  }
  std::shared_ptr<const MappedFile> file(
      new MappedFile({static_cast<const std::byte*>(address), size}));
  refuse_git_lfs_pointer(path, {static_cast<const char*>(address), size});
  return file;
}

MappedFile::~MappedFile() {
  if (bytes_.empty()) return;
  ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace outrider
