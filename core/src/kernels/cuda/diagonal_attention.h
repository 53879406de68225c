#pragma once

#include <cstddef>
#include <cstdint>

#include "outrider/kernels/data_type.h"
#include "outrider/kernels/launcher.h"

struct CUstream_st;

/// Attention of each query to one key of its own position in each of several diagonals, merged into
/// attention that is there already, on raw CUDA pointers. Arithmetic in float32 (float64 for
/// kDouble). Functions return a cudaError_t, 0 for success, and do not wait for the stream.
namespace outrider::cuda {

/// A tensor [batch, heads, length, head_dim] by strides in elements; the last is 1.
struct HeadVectors {
  const void* data;
  int64_t batch_stride, head_stride, position_stride;
};

struct DiagonalAttentionShape {
  kernels::DataType type;
  int64_t batch, heads, kv_heads, length, head_dim;
  double scale;
};

/// More diagonals go in several launches.
constexpr int kMaxDiagonals = 16;

struct Diagonals {
  int count;
  struct {
    HeadVectors key, value;
    const bool* mask;  // [batch, length] contiguous, or null
  } at[kMaxDiagonals];
};

struct DiagonalGradients {
  struct {
    HeadVectors key, value;  // written
  } at[kMaxDiagonals];
};

/// Vectors longer than this have no kernel.
constexpr int64_t kLongestDiagonalVector = 256;

/// How many diagonals one launch of the backward pass has room for, at least 1, at most
/// kMaxDiagonals; 0 where a group of queries is too large.
OUTRIDER_LAUNCHER int diagonals_per_launch(const DiagonalAttentionShape& shape);

/// output: what the queries have attended to, and lse [batch, heads, length] contiguous, its
/// log-sum-exp; both become those with the diagonals.
OUTRIDER_LAUNCHER int merge_diagonals(const DiagonalAttentionShape& shape, const HeadVectors& query,
                                      const Diagonals& diagonals, const HeadVectors& output,
                                      void* lse, CUstream_st* stream);

/// Of the merged output and its log-sum-exp: adds to d_query, writes the diagonals' gradients.
OUTRIDER_LAUNCHER int merge_diagonals_backward(
    const DiagonalAttentionShape& shape, const HeadVectors& grad, const HeadVectors& query,
    const Diagonals& diagonals, const HeadVectors& output, const void* lse,
    const HeadVectors& d_query, const DiagonalGradients& gradients, CUstream_st* stream);

}  // namespace outrider::cuda
