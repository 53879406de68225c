#pragma once

#include <filesystem>
#include <string>

#include "outrider/api.h"

namespace outrider {

/// Writes the project of a new plugin, which builds and passes its tests as it is, atomically.
/// Throws kInvalidArgument for a name that no plugin can have or an installed mode has, and what
/// AtomicDirectory does.
OUTRIDER_API void write_plugin_project(const std::string& name,
                                       const std::filesystem::path& folder);

/// The folder that CMake finds the SDK below, which came with this program; empty where the program
/// was built but not installed.
OUTRIDER_API std::filesystem::path sdk_prefix();

}  // namespace outrider
