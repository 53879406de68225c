#pragma once

#include <string>

namespace outrider {

/// Whether a name from a data file stays in the folder of that file.
inline bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

}  // namespace outrider
