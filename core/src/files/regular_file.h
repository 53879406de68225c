#pragma once

#include <filesystem>

#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {

/// The size of a file in bytes. Throws kFileNotFound, or kFileUnreadable for a folder, a pipe or a
/// device, which a reader could wait for without end.
inline size_t regular_file_size(const std::filesystem::path& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  const auto type = fs::status(path, error).type();
  if (type == fs::file_type::not_found) {
    throw Error(ErrorCode::kFileNotFound, in_quotes(path.string()) + " does not exist");
  }
  if (!error && type != fs::file_type::regular) {
    throw Error(ErrorCode::kFileUnreadable, in_quotes(path.string()) + " is not a regular file");
  }
  const auto size = error ? 0 : fs::file_size(path, error);
  if (error) {
    throw Error(ErrorCode::kFileUnreadable,
                in_quotes(path.string()) + " cannot be read: " + error.message());
  }
  return size;
}

}  // namespace outrider
