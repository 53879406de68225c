#pragma once

#include <filesystem>

#include "verify/check.h"

namespace outrider::verify {

/// What outrider_state.json says of the base's config.json and weights ("base config", "base
/// weights"), and whether the metadata of each mode are what its config leads to ("metadata"):
/// all that tells of the base's layers where a folder has no recorded outputs.
Checks check_state(const std::filesystem::path& folder);

}  // namespace outrider::verify
