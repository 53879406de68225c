#pragma once

#include <cstdint>

#include "outrider/kernels/data_type.h"
#include "outrider/kernels/launcher.h"

struct CUstream_st;

/// y = cast(silu(gate)) · up on a CUDA device, on raw pointers to `count` contiguous elements each,
/// all of one type. Functions return a cudaError_t, 0 for success, and do not wait for the stream.
namespace outrider::cuda {

OUTRIDER_LAUNCHER int swiglu(kernels::DataType type, int64_t count, const void* gate,
                             const void* up, void* y, CUstream_st* stream);

/// Gradients with the cast taken as the identity.
OUTRIDER_LAUNCHER int swiglu_backward(kernels::DataType type, int64_t count, const void* grad_y,
                                      const void* gate, const void* up, void* grad_gate,
                                      void* grad_up, CUstream_st* stream);

}  // namespace outrider::cuda
