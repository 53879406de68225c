#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <string_view>

#include "outrider/api.h"

namespace outrider {

/// What the hint of every error about such a file says.
constexpr const char* kFetchFromGitLfs =
    "`git lfs install` and then `git lfs pull` in the folder fetch what such files stand for";

/// Throws kInvalidFile where `start`, a file's first bytes, are those of a Git LFS pointer: a small
/// text in place of a file that was not fetched.
OUTRIDER_API void refuse_git_lfs_pointer(const std::filesystem::path& file, std::string_view start);

/// Names of the files in a folder, not below it, that are such pointers.
OUTRIDER_API std::set<std::string> git_lfs_pointers(const std::filesystem::path& folder);

}  // namespace outrider
