#pragma once

#include <map>
#include <string>
#include <vector>

namespace outrider::python {

/// Modes that installed plugins provide, sorted.
std::vector<std::string> mode_names();
/// A mode's plugin, fields and presets as JSON; loads its plugin.
std::string describe_mode(const std::string& name);
/// A config over a mode's defaults, as JSON.
std::string resolve_config(const std::string& mode, const std::string& config);
/// Installed plugins: name, version, path, and what is wrong with those that cannot be used.
std::vector<std::map<std::string, std::string>> list_plugins();
/// Architectures whose config.json Outrider reads itself.
std::vector<std::string> native_architectures();

}  // namespace outrider::python
