#include "outrider/host/plugin_info.h"

#include <fmt/format.h>

#include "outrider/text.h"
#include "plugins/plugin_title.h"

namespace outrider {
namespace {

/// Versions below 0.1.0 promise nothing to each other, and a prerelease is only in a range that
/// names it.
std::string compatible_range(const SemVer& version) {
  const bool is_exact = (version.major == 0 && version.minor == 0) || !version.prerelease.empty();
  return is_exact ? "^" + version.to_string() : fmt::format("^{}.{}", version.major, version.minor);
}

}  // namespace

std::string PluginInfo::location() const {
  return is_built_in ? "(built in)" : printable(path.string());
}

PluginRef PluginInfo::reference() const {
  return {name, version.to_string(), compatible_range(version), sha256};
}

std::string plugin_title(const PluginInfo& plugin) {
  if (plugin.is_built_in)
    return fmt::format("{} {}, built into this program", plugin.name, plugin.version.to_string());
  return fmt::format("{} {} ({})", plugin.name, plugin.version.to_string(), plugin.location());
}

}  // namespace outrider
