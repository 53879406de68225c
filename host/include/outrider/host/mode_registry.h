#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "outrider/host/plugin_info.h"
#include "outrider/sdk/mode_descriptor.h"

namespace outrider {

/// A mode and the plugin that brought it.
struct RegisteredMode {
  std::unique_ptr<const ModeDescriptor> descriptor;
  PluginInfo plugin;
};

/// The modes of this process, by name. Filled by the plugin loader, one plugin at a time and whole.
/// Thread-safe; a mode that was found stays valid.
class OUTRIDER_API SpeculativeDecodingModeRegistry {
 public:
  /// Publishes all modes of a plugin, or none. Throws kPluginConflict, naming both plugins, for a
  /// mode name that is taken, and kPluginRegisterFailed for a malformed schema or preset.
  void commit(const PluginInfo& plugin, std::vector<std::unique_ptr<const ModeDescriptor>> modes);

  /// Throws kUnknownMode with the nearest names.
  const RegisteredMode& get(const std::string& name) const;
  const RegisteredMode* find(const std::string& name) const noexcept;
  std::vector<std::string> names() const;  // sorted

 private:
  void publish(const PluginInfo& plugin, std::map<std::string, RegisteredMode> staged);

  mutable std::mutex mutex_;
  std::map<std::string, RegisteredMode> modes_;
};

}  // namespace outrider
