#pragma once

#include <vector>

#include "outrider/api.h"
#include "outrider/host/plugin_loader.h"

namespace outrider {

/// Every plugin of the search path as PluginLoader::list() gives it, always with lock files
/// required, and beside that what a list of files cannot show: entries of lock files whose file is
/// missing, lock files that cannot be read, and files that are ambiguous (equal name and version,
/// different bytes, one folder). Runs no plugin code.
OUTRIDER_API std::vector<PluginListing> verify_plugins(PluginPolicy policy);

}  // namespace outrider
