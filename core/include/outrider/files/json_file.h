#pragma once

#include <cstddef>
#include <filesystem>
#include <string_view>

#include "outrider/api.h"
#include "outrider/json.h"

namespace outrider {

struct JsonLimits {
  size_t bytes = 16u << 20;
  int depth = 64;
};

/// Parses a whole file. Throws kFileNotFound, kFileUnreadable, or kInvalidFile with the file, line
/// and reason: over the limits, not JSON, a key that occurs twice, NaN. An integer beyond 64 bits
/// becomes a float.
OUTRIDER_API Json read_json_file(const std::filesystem::path& path, JsonLimits limits = {});

/// The same for text that came from `origin` (used in messages only).
OUTRIDER_API Json parse_json(std::string_view text, std::string_view origin,
                             JsonLimits limits = {});

/// Indented, with a final newline, atomically. Throws kWriteFailed, or kInvalidArgument for text
/// that is not UTF-8.
OUTRIDER_API void write_json_file(const std::filesystem::path& path, const Json& value);

}  // namespace outrider
