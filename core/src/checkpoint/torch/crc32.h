#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace outrider {

/// The checksum of zip files: reflected polynomial 0xEDB88320, ITU-T V.42.
uint32_t crc32(std::span<const std::byte> bytes);

}  // namespace outrider
