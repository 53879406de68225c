#include "outrider/files/git_lfs.h"

#include <fstream>

#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kPointerStart = "version https://git-lfs.github.com/spec/v1";
// The specification's bound.
constexpr uintmax_t kLongestPointer = 1024;

bool is_git_lfs_pointer(const fs::path& file) {
  std::error_code error;
  if (!fs::is_regular_file(file, error) || fs::file_size(file, error) > kLongestPointer) {
    return false;
  }
  std::string start(kPointerStart.size(), '\0');
  std::ifstream(file, std::ios::binary)
      .read(start.data(), static_cast<std::streamsize>(start.size()));
  return start == kPointerStart;
}

}  // namespace

void refuse_git_lfs_pointer(const fs::path& file, std::string_view start) {
  if (!start.starts_with(kPointerStart)) return;
  throw Error(ErrorCode::kInvalidFile,
              in_quotes(file.string()) + " is a Git LFS pointer, not the file that it stands for",
              kFetchFromGitLfs);
}

std::set<std::string> git_lfs_pointers(const fs::path& folder) {
  std::set<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (is_git_lfs_pointer(it->path())) names.insert(it->path().filename().string());
  }
  return names;
}

}  // namespace outrider
