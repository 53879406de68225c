#pragma once

#include <functional>
#include <string>
#include <vector>

#include "plugin_fixtures.h"

namespace outrider::testing {

/// One way in which a plugin is wrong, and what loading it says.
struct WrongPlugin {
  std::string title;
  /// Damages the probe, or what is around it, and locks it where a user might have.
  std::function<void(ProbeFolder&)> damage;
  ErrorCode code;
  std::string part;
  /// Static constructors, which an entry function comes after.
  bool runs_code = false;
  /// What the probe's code does, OUTRIDER_PROBE.
  const char* behaviour = "";
};

/// Damages that someone locked unaware: to the file's bytes, to its stamp.
std::function<void(ProbeFolder&)> bytes(std::function<void(Bytes&)> change);
std::function<void(ProbeFolder&)> stamp(std::function<void(PluginStamp&)> change);

/// Each is refused as it says, runs code only if it says so, and leaves nothing registered.
void check_wrong_plugins(const std::vector<WrongPlugin>& plugins);

}  // namespace outrider::testing
