#pragma once

#include <filesystem>
#include <vector>

namespace outrider {

inline constexpr const char* kPluginSuffix = ".outrider.so";

/// The plugin files of a folder, sorted; none where there is no such folder.
std::vector<std::filesystem::path> plugin_files(const std::filesystem::path& folder);

}  // namespace outrider
