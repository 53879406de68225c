#pragma once

#include <cstdint>

namespace outrider {

// https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, section 4.5.3.
constexpr uint16_t kZip64Extra = 1;
constexpr uint32_t kIn64 = 0xFFFFFFFF;  // the value stands in the zip64 extra field

}  // namespace outrider
