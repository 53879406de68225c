#pragma once

#include <filesystem>

#include "verify/check.h"

namespace outrider::verify {

/// Of a folder without a probe, what outrider_state.json says of the base's config.json and
/// weights ("base config", "base weights"), and whether the metadata of each mode are what its
/// config leads to ("metadata").
Checks check_unrecorded(const std::filesystem::path& folder);

}  // namespace outrider::verify
