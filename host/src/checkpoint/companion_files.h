#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace outrider {

/// Whether a file of this name belongs to a model beside its weights: its tokenizer, its configs.
bool is_beside_weights(const std::string& name);

/// Copies the files of a Hugging Face folder that are not weights: tokenizer, templates, generation
/// config. An empty `from` has none.
void copy_companions(const std::filesystem::path& from, const std::filesystem::path& to);

/// The bytes that copy_companions() would write.
uint64_t companion_bytes(const std::filesystem::path& from);

/// Copies one file to a new name. Throws kWriteFailed.
void copy_new_file(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace outrider
