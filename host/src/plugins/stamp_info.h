#pragma once

#include "outrider/host/plugin_info.h"
#include "outrider/sdk/stamp.h"

namespace outrider {

/// Fills in what a stamp, one that parse_stamp() accepts, says about its plugin.
void describe(const PluginStamp& stamp, PluginInfo& info);

/// Throws kPluginIncompatible with every reason why the plugin cannot run in this host.
void check_compatibility(const PluginStamp& stamp, const PluginInfo& info);

}  // namespace outrider
