#pragma once

#include <filesystem>

namespace outrider {

/// Copies the files of a Hugging Face folder that are not weights: tokenizer, templates, generation
/// config. An empty `from` has none.
void copy_companions(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace outrider
