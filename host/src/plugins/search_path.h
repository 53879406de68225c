#pragma once

#include <filesystem>
#include <optional>

namespace outrider {

/// The folder of the user's own plugins for this SDK ABI, LibTorch and platform, below
/// XDG_DATA_HOME or ~/.local/share; nothing where neither is known.
std::optional<std::filesystem::path> user_plugin_folder();

/// lib/outrider of the installation, or empty: plugins, template, text tools. Found through the
/// library that holds this code, so that it also works from another program.
std::filesystem::path installed_data_folder();

}  // namespace outrider
