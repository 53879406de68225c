#pragma once

#include <cstddef>
#include <cstdint>

#include "outrider/kernels/data_type.h"
#include "outrider/kernels/launcher.h"

struct CUstream_st;

/// y = w · cast(x / √(mean(x²) + eps)) on a CUDA device, on raw pointers. x and y [rows, hidden]
/// are contiguous, w [hidden], all of one type. Functions return a cudaError_t, 0 for success, and
/// do not wait for the stream.
namespace outrider::cuda {

struct RmsNormShape {
  kernels::DataType type;
  int64_t rows, hidden;
  double eps;
};

OUTRIDER_LAUNCHER int rms_norm(const RmsNormShape& shape, const void* x, const void* w, void* y,
                               CUstream_st* stream);

/// Device memory that the backward needs, aligned to 16 bytes.
OUTRIDER_LAUNCHER size_t rms_norm_workspace_bytes(const RmsNormShape& shape);

struct RmsNormGradients {
  void* x;            // [rows, hidden], or null: not wanted
  void* w;            // [hidden], summed in a fixed order in float32, float64 for kDouble
  bool keeps_w_wide;  // w is of the type of those sums, not narrowed
};

/// Gradients with the cast taken as the identity.
OUTRIDER_LAUNCHER int rms_norm_backward(const RmsNormShape& shape, const void* grad_y,
                                        const void* x, const void* w,
                                        const RmsNormGradients& gradients, void* workspace,
                                        CUstream_st* stream);

}  // namespace outrider::cuda
