#pragma once

#include "outrider/kernels/launcher.h"

struct CUstream_st;

/// Kernel launches that are recorded once and launched as a whole from then on (CUDA graphs).
/// Functions return a cudaError_t, 0 for success.
namespace outrider::cuda {

/// Until end_recording(), what is launched on the stream is recorded and does not run; the stream
/// must not be the device's default one.
OUTRIDER_LAUNCHER int begin_recording(CUstream_st* stream);
/// `recorded`: to be launched, and freed by forget_recorded().
OUTRIDER_LAUNCHER int end_recording(CUstream_st* stream, void** recorded);
OUTRIDER_LAUNCHER int launch_recorded(void* recorded, CUstream_st* stream);
OUTRIDER_LAUNCHER void forget_recorded(void* recorded);

}  // namespace outrider::cuda
