#pragma once

#include <cstdint>

#include "outrider/kernels/data_type.h"
#include "outrider/kernels/launcher.h"

struct CUstream_st;

/// Rows of eight-bit floats (e4m3) on a CUDA device, on raw pointers: of x [rows, width],
/// contiguous, each row divided by scales[row], which makes its largest magnitude the largest that
/// the type has. Returns a cudaError_t, 0 for success, and does not wait for the stream.
namespace outrider::cuda {

OUTRIDER_LAUNCHER int quantize_rows(kernels::DataType type, int64_t rows, int64_t width,
                                    const void* x, void* values, float* scales,
                                    CUstream_st* stream);

}  // namespace outrider::cuda
