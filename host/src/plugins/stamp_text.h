#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "outrider/sdk/stamp.h"

namespace outrider {

/// The content of a stamp note, checked: magic, size, every text terminated and well-formed.
/// A newer, longer stamp is read as far as it is known here. Throws kPluginBadStamp.
PluginStamp parse_stamp(std::span<const std::byte> content, const std::string& origin);

/// Whether a plugin or a mode can be called so.
bool is_plugin_name(std::string_view name);

/// The names between the commas of a stamp's list.
std::vector<std::string> split_names(std::string_view list);

}  // namespace outrider
