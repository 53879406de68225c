#pragma once

#include <filesystem>
#include <string>

namespace outrider {

/// Whether a file of this name belongs to a model beside its weights: its tokenizer, its configs.
bool is_beside_weights(const std::string& name);

/// Copies the files of a Hugging Face folder that are not weights: tokenizer, templates, generation
/// config. An empty `from` has none.
void copy_companions(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace outrider
