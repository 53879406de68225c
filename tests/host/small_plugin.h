#pragma once

#include <string>

#include "outrider/sdk/stamp.h"

namespace outrider::testing {

/// A file of about 2 KB that passes every check of a plugin file and holds no code. `extra` bytes
/// at its end tell files of equal stamps apart.
std::string small_plugin(const PluginStamp& stamp, const std::string& extra = {});

}  // namespace outrider::testing
