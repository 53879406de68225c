#pragma once

#include <cstddef>
#include <filesystem>

#include "outrider/api.h"

namespace outrider {

/// Bytes of memory that this process can still get without swapping: what the machine has left, or
/// less where a control group (a container) allows less. `root` is where /proc and /sys are.
OUTRIDER_API size_t available_memory(const std::filesystem::path& root = "/");

}  // namespace outrider
