#include "companion_files.h"

#include <fmt/format.h>

#include <set>
#include <string>
#include <system_error>

#include "outrider/checkpoint/metadata.h"
#include "outrider/error.h"
#include "outrider/host/checkpoint.h"
#include "outrider/text.h"

namespace outrider {
namespace fs = std::filesystem;
namespace {

bool is_companion(const fs::path& path) {
  static const std::set<std::string> ours = {"config.json",
                                             CheckpointMetadata::kFileName,
                                             kProbeFile,
                                             "model.safetensors.index.json",
                                             "training_state.json",
                                             "best.json"};
  const auto name = path.filename().string();
  return fs::is_regular_file(path) && is_beside_weights(name) && !ours.contains(name) &&
         !name.starts_with(".");
}

}  // namespace

bool is_beside_weights(const std::string& name) {
  static const std::set<std::string> extensions = {".json", ".txt", ".model", ".jinja",
                                                   ".tiktoken"};
  return extensions.contains(fs::path(name).extension().string());
}

void copy_companions(const fs::path& from, const fs::path& to) {
  if (from.empty()) return;
  for (const auto& entry : fs::directory_iterator(from)) {
    if (is_companion(entry.path())) copy_new_file(entry.path(), to / entry.path().filename());
  }
}

uint64_t companion_bytes(const fs::path& from) {
  if (from.empty()) return 0;
  uint64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(from)) {
    if (is_companion(entry.path())) bytes += entry.file_size();
  }
  return bytes;
}

void copy_new_file(const fs::path& from, const fs::path& to) {
  std::error_code error;
  if (fs::copy_file(from, to, error)) return;
  throw Error(ErrorCode::kWriteFailed,
              fmt::format("cannot copy {} to {}: {}", in_quotes(from.string()),
                          in_quotes(to.string()), error.message()),
              "is there room on the disk, and may both be accessed?");
}

}  // namespace outrider
