#pragma once

#include <vector>

#include "outrider/sdk/plugin_entry.h"
#include "outrider/sdk/stamp.h"

namespace outrider {

/// A plugin that is linked into the program: what its file would say, and its entry function.
struct StaticPlugin {
  PluginStamp stamp;
  PluginEntry entry;
};

/// The plugins of the CMake call outrider_link_static_plugins(), which writes this function into
/// the program.
std::vector<StaticPlugin> static_plugins();

}  // namespace outrider
