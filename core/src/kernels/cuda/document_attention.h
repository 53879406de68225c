#pragma once

#include <cstdint>

#include "kernels/cuda/diagonal_attention.h"
#include "outrider/kernels/data_type.h"
#include "outrider/kernels/launcher.h"

struct CUstream_st;

/// Causal attention within documents that lie after one another in rows, on raw CUDA pointers: of
/// half types, the softmax and all sums in float32.
namespace outrider::cuda {

struct DocumentAttentionShape {
  kernels::DataType type;
  int64_t batch, heads, kv_heads, length;
  int64_t head_dim;  // 64 or 128
  int64_t window;    // query i sees keys j with i - j < window
  double scale;      // positive
};

/// Where the document of each position begins in its row: [batch, length] int64, by rows `stride`
/// apart. Never falls along a row.
struct DocumentStarts {
  const int64_t* data;
  int64_t stride;
};

struct AttentionInputs {
  HeadVectors query, key, value;  // vectors begin at multiples of 16 bytes
};

/// output [batch, heads, length, head_dim] like the inputs; lse [batch, heads, length] float32 by
/// strides of a sequence and of a head: the log-sum-exp, natural, scale included. Returns a
/// cudaError_t, 0 for success, and does not wait for the stream.
OUTRIDER_LAUNCHER int document_attention(const DocumentAttentionShape& shape,
                                         const AttentionInputs& inputs,
                                         const DocumentStarts& starts, const HeadVectors& output,
                                         float* lse, int64_t lse_batch_stride,
                                         int64_t lse_head_stride, CUstream_st* stream);

}  // namespace outrider::cuda
