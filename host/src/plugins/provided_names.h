#pragma once

#include <string>
#include <vector>

#include "outrider/host/plugin_info.h"

namespace outrider {

/// Modes, base architectures and draft classes of a plugin, as its stamp names them.
inline std::vector<std::string> provided_names(const PluginInfo& plugin) {
  auto names = plugin.modes;
  names.insert(names.end(), plugin.bases.begin(), plugin.bases.end());
  names.insert(names.end(), plugin.draft_models.begin(), plugin.draft_models.end());
  return names;
}

}  // namespace outrider
