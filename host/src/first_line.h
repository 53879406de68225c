#pragma once

#include <string>
#include <string_view>

namespace outrider {

/// `text` without what follows its first line break: an error's message without its details.
inline std::string first_line(std::string_view text) {
  return std::string(text.substr(0, text.find('\n')));
}

}  // namespace outrider
