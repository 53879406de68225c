#pragma once

#include <filesystem>
#include <set>
#include <string>

#include "outrider/api.h"

namespace outrider {

/// What to give where a model is wanted.
constexpr const char* kModelFolderHint =
    "give the folder of a Hugging Face model, the one with config.json";

/// Throws kFileNotFound unless there is such a folder. The hint names what was probably meant: a
/// folder beside it, one below "~", the folder of a file, a model of the Hugging Face Hub and the
/// command that fetches it; else it is `hint`.
OUTRIDER_API void require_folder(const std::filesystem::path& folder, const std::string& hint);

/// The same for a folder with a tokenizer; beside that, nothing but weights may be a Git LFS
/// pointer (kInvalidFile).
OUTRIDER_API void require_tokenizer_folder(const std::filesystem::path& folder);

/// The Git LFS pointers that stand for what a model is read from. The same weights in other forms
/// may be left on the server.
std::set<std::string> pointers_that_matter(const std::filesystem::path& folder);
/// Throws kInvalidFile naming all of them, where there are any.
void refuse_pointers(const std::filesystem::path& folder, const std::set<std::string>& names);

/// Both.
void require_no_git_lfs_pointers(const std::filesystem::path& folder);

/// Throws kFileNotFound unless the folder has a config.json. The hint names folders below it that
/// have one.
void require_config_file(const std::filesystem::path& folder);

}  // namespace outrider
