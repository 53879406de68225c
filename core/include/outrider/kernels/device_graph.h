#pragma once

#include <functional>
#include <memory>

#include "outrider/api.h"

namespace outrider {

/// Work of a GPU that is recorded once and launched as a whole from then on (CUDA graphs): the host
/// spends no time on its kernels. What was allocated while recording keeps its place in memory.
class DeviceGraph {
 public:
  virtual ~DeviceGraph() = default;

  /// Records what `work` launches on the current stream, which must not be the device's default
  /// one; nothing is computed. Throws c10::Error where `work` waits for the device, or copies from
  /// memory that is not pinned.
  virtual void record(const std::function<void()>& work) = 0;
  /// The recorded work, on the current stream.
  virtual void launch() = 0;
};

/// `shares_memory_with`: a graph whose memory this one uses too; they must not run side by side.
/// Throws kUnsupported in a build without CUDA.
OUTRIDER_API std::unique_ptr<DeviceGraph> make_device_graph(
    const DeviceGraph* shares_memory_with = nullptr);

}  // namespace outrider
