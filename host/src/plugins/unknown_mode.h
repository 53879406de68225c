#pragma once

#include <string>
#include <vector>

namespace outrider {

/// Throws kUnknownMode with the nearest of `known`.
[[noreturn]] void throw_unknown_mode(const std::string& name,
                                     const std::vector<std::string>& known);

}  // namespace outrider
