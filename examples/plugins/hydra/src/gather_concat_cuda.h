#pragma once

#include <cstdint>

#include "outrider/kernels/data_type.h"
#include "outrider/kernels/launcher.h"

struct CUstream_st;

/// gather_concat (see gather_concat.h) on a CUDA device and raw pointers. Tensors are contiguous
/// and of one type; sums are in float32 (float64 for kDouble) and rounded once. Functions return a
/// cudaError_t, 0 for success, and do not wait for the stream.
namespace hydra::cuda {

struct GatherConcatShape {
  outrider::kernels::DataType type;
  int64_t positions, hidden;  // M, h
  int64_t rows, count;        // N
};

/// state, embeddings [M,h]; rows [N] → out [N,(count+1)·h]. A row out of bounds ends the kernel
/// with an error, as ATen's indexing does.
OUTRIDER_LAUNCHER int forward(const GatherConcatShape& shape, const void* state,
                              const void* embeddings, const int64_t* rows, void* out,
                              CUstream_st* stream);

/// grad_out [N,(count+1)·h]; place [M] is the n with rows[n] = m, or -1 → grad_state and
/// grad_embeddings [M,h], written whole.
OUTRIDER_LAUNCHER int backward(const GatherConcatShape& shape, const void* grad_out,
                               const int64_t* place, void* grad_state, void* grad_embeddings,
                               CUstream_st* stream);

}  // namespace hydra::cuda
