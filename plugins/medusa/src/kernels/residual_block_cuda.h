#pragma once

#include <cstddef>
#include <cstdint>

#include "outrider/kernels/data_type.h"
#include "outrider/kernels/launcher.h"

struct CUstream_st;

/// What follows the matrix product of Medusa's residual block, on a CUDA device and raw pointers:
///
///     y = x + silu(z + bias),  z = x Wᵀ
///
/// x, z, y [rows, hidden] are contiguous, bias is [hidden], all tensors of one type; arithmetic is
/// in float32 (float64 for kDouble) and rounded once. Functions return a cudaError_t, 0 for
/// success, and do not wait for the stream.
namespace outrider::medusa::cuda {

using kernels::DataType;

struct ResidualBlockShape {
  DataType type;
  int64_t rows, hidden;
};

struct ResidualBlockInputs {
  const void *x, *z, *bias;
};

struct ResidualBlockGradients {
  void* z;     // grad_y · silu'(z + bias): what the matrix product's gradients come from
  void* bias;  // its sum over rows, in a fixed order
};

OUTRIDER_LAUNCHER int forward(const ResidualBlockShape& shape, const ResidualBlockInputs& in,
                              void* y, CUstream_st* stream);

/// Device memory that backward needs, aligned to 16 bytes.
OUTRIDER_LAUNCHER size_t backward_workspace_bytes(const ResidualBlockShape& shape);

/// `in.x` is not read. The gradient of x through the sum is grad_y itself and left to the caller.
OUTRIDER_LAUNCHER int backward(const ResidualBlockShape& shape, const ResidualBlockInputs& in,
                               const void* grad_y, const ResidualBlockGradients& gradients,
                               void* workspace, CUstream_st* stream);

}  // namespace outrider::medusa::cuda
