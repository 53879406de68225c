#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "outrider/api.h"

namespace outrider {

/// The checkpoint that a run goes on from: `chosen`, a folder of the run or its name, or where that
/// is empty the newest; nothing where the run has none. Every byte that is resumed from is read.
/// Throws kInvalidFile for a damaged one, naming what is damaged and the newest older one that is
/// whole, and kInvalidArgument for a choice that is no checkpoint of this run.
OUTRIDER_API std::optional<std::filesystem::path> resume_point(const std::filesystem::path& run,
                                                               const std::filesystem::path& chosen);

/// Throws kInvalidArgument where `run` holds a later checkpoint than `checkpoint`, or not that one.
OUTRIDER_API void require_newest(const std::filesystem::path& run,
                                 const std::filesystem::path& checkpoint);

/// Moves the checkpoints after step `step` out of the way of a run that goes on from there: to
/// set-aside-checkpoint-N. Returns their new places.
OUTRIDER_API std::vector<std::filesystem::path> set_aside_newer(const std::filesystem::path& run,
                                                                int64_t step);

}  // namespace outrider
