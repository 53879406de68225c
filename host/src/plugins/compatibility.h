#pragma once

#include <cstdint>
#include <string>

namespace outrider {

/// "2.11.0" for the packed version of a stamp.
std::string packed_version_text(uint32_t packed);

}  // namespace outrider
