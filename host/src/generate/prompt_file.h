#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "outrider/api.h"
#include "outrider/json.h"

namespace outrider {

/// The objects of a JSON Lines file, one prompt each: {"input_ids": […]}, or what
/// TextHelper::encode() takes. Throws kFileNotFound, kFileUnreadable, kInvalidFile naming the line,
/// also for what ResumableLines has not finished.
OUTRIDER_API std::vector<Json> read_prompt_file(const std::filesystem::path& file);

/// `count` of them, spread evenly, since files are often sorted by category; all for 0.
OUTRIDER_API std::vector<Json> spread(std::vector<Json> prompts, size_t count);

/// Whether it is given as tokens.
OUTRIDER_API bool has_tokens(const Json& prompt);

/// Those tokens. Throws kInvalidFile unless they are a list of integers.
OUTRIDER_API std::vector<int64_t> tokens_of(const Json& prompt, size_t number);

}  // namespace outrider
