#pragma once

#include <string>

#include "outrider/host/plugin_info.h"

namespace outrider {

/// "eagle 0.1.0 (/folder/eagle.outrider.so)", for messages.
std::string plugin_title(const PluginInfo& plugin);

}  // namespace outrider
