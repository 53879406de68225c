#include "scratch_file.h"

#include <stdlib.h>

#include <fstream>

#include "subject.h"

namespace outrider::fuzz {
namespace {

namespace fs = std::filesystem;

class ScratchFolder {
 public:
  ScratchFolder() {
    std::string pattern = (fs::temp_directory_path() / "outrider_fuzz_XXXXXX").string();
    require(::mkdtemp(pattern.data()) != nullptr, "there is a folder for temporary files");
    path_ = pattern;
  }
  ~ScratchFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

}  // namespace

const fs::path& folder_with(const std::string& name, const std::string& bytes) {
  static const ScratchFolder folder;
  std::ofstream file(folder.path() / name, std::ios::binary | std::ios::trunc);
  file << bytes;
  require(file.flush().good(), "temporary files can be written");
  return folder.path();
}

}  // namespace outrider::fuzz
