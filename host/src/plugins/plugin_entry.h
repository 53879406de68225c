#pragma once

#include <memory>
#include <string>
#include <vector>

#include "outrider/host/plugin_file.h"
#include "outrider/sdk/mode_descriptor.h"

namespace outrider {

/// Opens a plugin file, which runs its static constructors, and calls its entry function: the modes
/// that it registered, which are exactly those that its stamp names. It is never closed.
/// Throws kPluginLinkFailed, kPluginNoEntry or kPluginRegisterFailed.
std::vector<std::unique_ptr<const ModeDescriptor>> enter_plugin(PluginFile& file);

}  // namespace outrider
