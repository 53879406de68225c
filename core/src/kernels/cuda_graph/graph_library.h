#pragma once

#include "outrider/kernels/device_graph.h"

namespace outrider {

inline constexpr const char* kCudaGraphLibrary = "liboutrider_cuda_graph.so";
inline constexpr const char* kMakeCudaGraph = "outrider_make_cuda_graph";

/// The one function of that library; its caller owns the graph.
using MakeCudaGraph = DeviceGraph*(const DeviceGraph* shares_memory_with);

}  // namespace outrider
