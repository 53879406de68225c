#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "outrider/host/plugin_file.h"
#include "outrider/model/base_model_registry.h"
#include "outrider/model/draft_model_registry.h"
#include "outrider/sdk/mode_descriptor.h"
#include "outrider/sdk/plugin_entry.h"

namespace outrider {

/// What a plugin registered.
struct PluginContent {
  std::vector<std::unique_ptr<const ModeDescriptor>> modes;
  std::map<std::string, BaseModelRegistry::Factory> bases;
  std::map<std::pair<std::string, std::string>, DraftModelRegistry::Factory> draft_models;
};

/// Opens a plugin file, which runs its static constructors, and calls its entry function. What that
/// registers is exactly what the stamp names. The file is never closed.
/// An exception of a static constructor ends the process.
/// Throws kPluginLinkFailed, kPluginNoEntry or kPluginRegisterFailed.
PluginContent enter_plugin(PluginFile& file);

/// The same for an entry function that is in the process already.
PluginContent enter_plugin(const PluginInfo& plugin, PluginEntry entry);

}  // namespace outrider
