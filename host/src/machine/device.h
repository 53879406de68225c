#pragma once

#include <c10/core/Device.h>

#include <cstdint>

namespace outrider {

/// Until all that was launched on a device is done; at once for the CPU.
void wait_for(c10::Device device);

/// Of a GPU, in bytes, by its driver: what every process has of it counts as used.
struct DeviceMemory {
  int64_t used, total;
};
DeviceMemory device_memory(c10::Device device);

}  // namespace outrider
