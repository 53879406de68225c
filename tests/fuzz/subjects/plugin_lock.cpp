#include "outrider/host/plugin_lock.h"

#include "outrider/host/sha256.h"
#include "scratch_file.h"
#include "subject.h"

namespace outrider::fuzz {
namespace {

std::vector<std::string> plugin_lock_seeds() {
  return {R"({"format_version": 1, "plugins": []})",
          R"({"format_version": 1, "plugins": [{"file": "eagle.outrider.so", "name": "eagle",
  "version": "0.1.0",
  "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}]})"};
}

void read_plugin_lock(const std::string& bytes) {
  const auto lock = PluginLock::read(folder_with(PluginLock::kFileName, bytes));
  for (const auto& entry : lock.entries) {
    require(is_sha256(entry.sha256), "every entry has a hash");
    require(lock.find(entry.file) != nullptr, "every entry is found");
  }
}

}  // namespace

const Subject kPluginLock{"plugin_lock", plugin_lock_seeds, read_plugin_lock,
                          "{}[]\",:01abcdef\\un "};

}  // namespace outrider::fuzz
