#pragma once

#include <string>

#include "outrider/api.h"

namespace outrider {

/// The function `symbol` of a library of this build that is opened where it is needed, and never
/// closed. Throws kUnsupported with the hint where there is none: "`who` need LIBRARY, …".
OUTRIDER_API void* function_of_library(const char* library, const char* symbol,
                                       const std::string& who, const std::string& hint);

}  // namespace outrider
