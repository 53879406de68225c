#pragma once

#include <cstdint>

#include "outrider/kernels/data_type.h"
#include "outrider/kernels/launcher.h"

struct CUstream_st;

namespace outrider::kernels::cuda {

/// values[i] *= *factor for `size` contiguous values of `type`; factor is of the accumulation type,
/// on the device. Where it is 1 the values are not touched. Returns the launch's cudaError_t.
OUTRIDER_LAUNCHER int scale(DataType type, void* values, int64_t size, const void* factor,
                            CUstream_st* stream);

}  // namespace outrider::kernels::cuda
