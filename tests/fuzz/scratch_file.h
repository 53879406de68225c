#pragma once

#include <filesystem>
#include <string>

namespace outrider::fuzz {

/// Writes `bytes` over the file `name` in this process's scratch folder, which goes when the
/// process ends; returns the folder. For readers that take a path.
const std::filesystem::path& folder_with(const std::string& name, const std::string& bytes);

}  // namespace outrider::fuzz
