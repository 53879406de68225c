#include "companion_files.h"

#include <set>
#include <string>

#include "outrider/checkpoint/metadata.h"

namespace outrider {
namespace fs = std::filesystem;
namespace {

bool is_companion(const fs::path& path) {
  static const std::set<std::string> ours = {"config.json", CheckpointMetadata::kFileName,
                                             "model.safetensors.index.json", "training_state.json",
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
    if (is_companion(entry.path())) fs::copy_file(entry.path(), to / entry.path().filename());
  }
}

}  // namespace outrider
