#pragma once

#include <cstdint>

#include "outrider/kernels/data_type.h"
#include "outrider/kernels/launcher.h"

struct CUstream_st;

/// Rotary position embedding on a CUDA device, on raw pointers: of each head's vector the first
/// `rotated` elements turn, x·cos + rotate_half(x)·sin with a rounding after each operation, the
/// others are copied. Functions return a cudaError_t, 0 for success, and do not wait for the
/// stream.
namespace outrider::cuda {

struct RotaryShape {
  kernels::DataType type;
  int64_t batch, heads, length, head_dim, rotated;
  int64_t table_batch;  // 1, or batch: each sequence has tables of its own
  int64_t batch_stride, head_stride, length_stride;  // of the input, in elements
};

/// x [batch, heads, length, head_dim] by strides, the last 1; cos, sin [table_batch, length,
/// rotated] contiguous; y [batch, length, heads, head_dim] contiguous. `inverse` turns back: the
/// gradient of x from that of y.
OUTRIDER_LAUNCHER int rotary(const RotaryShape& shape, const void* x, const void* cos,
                             const void* sin, bool inverse, void* y, CUstream_st* stream);

}  // namespace outrider::cuda
