#pragma once

#include <cstdint>

namespace outrider {

class Registrar;

/// Where the entry function writes what went wrong.
struct PluginErrorText {
  char text[1024];
};

/// The type of the one exported symbol of a plugin, `outrider_plugin_register_v1`. Returns 0, or an
/// error with its text in `error`.
using PluginEntry = int32_t (*)(Registrar* registrar, PluginErrorText* error) noexcept;

}  // namespace outrider
