#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "outrider/api.h"
#include "outrider/host/plugin_info.h"

namespace outrider {

/// `plugins.lock.json` of a plugin folder: the files that someone chose to trust, by SHA-256.
struct OUTRIDER_API PluginLock {
  static constexpr const char* kFileName = "plugins.lock.json";

  struct Entry {
    std::string file, name, version, sha256;
  };
  std::vector<Entry> entries;

  /// An empty lock where the folder has none. Throws kInvalidFile.
  static PluginLock read(const std::filesystem::path& folder);
  void write(const std::filesystem::path& folder) const;
  const Entry* find(const std::string& file) const;

  /// A lock over every plugin file in a folder as it is now.
  static PluginLock of_folder(const std::filesystem::path& folder);
};

}  // namespace outrider
