#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "outrider/api.h"

namespace outrider {

/// Bytes that may be written at a path, which need not exist yet; nothing where its file system
/// does not say.
OUTRIDER_API std::optional<uint64_t> free_bytes(const std::filesystem::path& path);

/// "950 B", "1.5 MB", "12.3 GB".
OUTRIDER_API std::string format_bytes(uint64_t bytes);

/// What files take beyond their bytes: blocks of the file system, and small files.
OUTRIDER_API uint64_t with_margin(uint64_t bytes);

/// Throws kWriteFailed where `what`, of so many bytes, does not fit at `path`.
OUTRIDER_API void require_free(const std::filesystem::path& path, const std::string& what,
                               uint64_t bytes, const std::string& hint);

}  // namespace outrider
