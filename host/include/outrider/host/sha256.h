#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "outrider/api.h"

namespace outrider {

/// SHA-256 of a file's bytes or of a text, in lower-case hexadecimal.
OUTRIDER_API std::string sha256_of_file(const std::filesystem::path& path);
OUTRIDER_API std::string sha256_of(std::string_view bytes);
/// Whether a text has that form.
OUTRIDER_API bool is_sha256(std::string_view text);

}  // namespace outrider
