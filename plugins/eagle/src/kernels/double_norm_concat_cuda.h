#pragma once

#include <cstddef>
#include <cstdint>

#include "outrider/kernels/data_type.h"
#include "outrider/kernels/launcher.h"

struct CUstream_st;

/// The fused input of EAGLE-3's first layer on a CUDA device, on raw pointers:
///
///     out = [ rms(e, w_e) ; rms(g, w_h) ]                with twice: rms(rms(g, w_e), w_h)
///     rms(x, w) = w · cast(x / √(mean(x²) + eps))
///
/// out [rows, 2·hidden] is contiguous, all tensors of one type. Functions
/// return a cudaError_t, 0 for success, and do not wait for the stream.
namespace outrider::eagle::cuda {

using kernels::DataType;

struct DoubleNormShape {
  DataType type;
  int64_t rows, hidden;
  double eps;
  bool twice;
};

/// Rows of `hidden` elements beside each other; `stride` elements lie between the beginnings of
/// parts of `length` rows, which are contiguous.
struct RowParts {
  const void* data;
  int64_t length, stride;
};

struct DoubleNormInputs {
  RowParts e, g;
  const void *w_e, *w_h;
};

struct DoubleNormGradients {
  void* e;  // [rows, hidden], or null: not wanted
  void* g;
  void *w_e, *w_h;  // [hidden]
};

OUTRIDER_LAUNCHER int forward(const DoubleNormShape& shape, const DoubleNormInputs& in, void* out,
                              CUstream_st* stream);

/// Device memory that backward needs, aligned to 16 bytes.
OUTRIDER_LAUNCHER size_t backward_workspace_bytes(const DoubleNormShape& shape);

/// Gradients with the casts taken as the identity. Those of the weights are summed in float32
/// (float64 for kDouble) in a fixed order.
OUTRIDER_LAUNCHER int backward(const DoubleNormShape& shape, const DoubleNormInputs& in,
                               const void* grad_out, const DoubleNormGradients& gradients,
                               void* workspace, CUstream_st* stream);

}  // namespace outrider::eagle::cuda
