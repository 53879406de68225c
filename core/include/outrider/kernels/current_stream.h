#pragma once

#include <c10/core/Device.h>

#include "outrider/api.h"

struct CUstream_st;

namespace outrider::kernels {

/// LibTorch's current stream of a CUDA device, for kernel launches; no CUDA header is needed. Hold
/// a c10::DeviceGuard for the device while launching.
OUTRIDER_API CUstream_st* current_stream(c10::Device device);

}  // namespace outrider::kernels
