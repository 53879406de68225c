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

PluginRef PluginInfo::reference() const {
  return {name, version.to_string(), compatible_range(version), sha256};
}

std::string plugin_title(const PluginInfo& plugin) {
  return fmt::format("{} {} ({})", plugin.name, plugin.version.to_string(),
                     printable(plugin.path.string()));
}

}  // namespace outrider
