#include "machine/scratch_folder.h"

#include <stdlib.h>

#include "outrider/error.h"

namespace outrider {

ScratchFolder::ScratchFolder() {
  auto pattern = (std::filesystem::temp_directory_path() / "outrider_XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) {
    throw Error(ErrorCode::kWriteFailed, pattern + ": cannot be created",
                "TMPDIR names a folder for temporary files");
  }
  path_ = pattern;
}

ScratchFolder::~ScratchFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace outrider
