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
  int64_t batch, length, head_dim, rotated;
  int64_t table_stride;  // elements from a sequence's tables to the next one's; 0: all have one
};

/// [batch, heads, length, head_dim] of which the vectors' elements lie beside each other; strides
/// in elements.
struct RotaryStrides {
  int64_t batch, head, length;
};

/// Vectors x and where they go, which may be their own place.
struct RotaryHeads {
  int64_t heads;
  const void* x;
  RotaryStrides from;
  void* y;
  RotaryStrides to;
};

/// Heads that turn by the same tables: a query's and a key's, or one tensor's and none.
struct RotaryPair {
  RotaryHeads first, second;
};

/// cos, sin [1 or batch, length, rotated], each sequence's contiguous. `inverse` turns back: the
/// gradient of x from that of y.
OUTRIDER_LAUNCHER int rotary(const RotaryShape& shape, const RotaryPair& heads, const void* cos,
                             const void* sin, bool inverse, CUstream_st* stream);

}  // namespace outrider::cuda
