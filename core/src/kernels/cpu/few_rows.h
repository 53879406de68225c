#pragma once

#include <cstdint>

#include "outrider/api.h"

namespace outrider::kernels::cpu {

/// y = x Wᵀ of a few rows: x [rows,inner] and W [outputs,inner] without gaps, y [rows,outputs] with
/// `stride` elements from one row to the next.
struct FewRows {
  const float* x;
  const void* weight;
  float* y;
  int64_t rows, inner, outputs, stride;
};

/// One query's attention to keys and values that lie in rows of `size`.
struct AttendedQuery {
  const float* query;
  const void *keys, *values;
  int64_t count, size;  // count ≥ 1
  float scale;
  const bool* hidden;  // [count] keys that are not seen, not all; null: all are
  float* scores;       // [count], written on the way
  float* y;            // [size]
};

/// For one instruction set: the outputs from `begin` up to `end`, which reads their part of the
/// weight once whatever the number of rows. Sums are in float32.
struct FewRowsKernels {
  void (*of_float)(const FewRows& product, int64_t begin, int64_t end);
  void (*of_bfloat16)(const FewRows& product, int64_t begin, int64_t end);  // of the weight alone
  void (*attend_float)(const AttendedQuery& query);
  void (*attend_bfloat16)(const AttendedQuery& query);  // of keys and values alone
  /// RMSNorm of one row.
  void (*norm)(const float* x, const float* weight, int64_t size, float eps, float* y);
  /// y = silu(gate) · up.
  void (*gate)(const float* gate, const float* up, int64_t count, float* y);
};

OUTRIDER_API const FewRowsKernels& few_rows_baseline();
OUTRIDER_API const FewRowsKernels& few_rows_avx2();
OUTRIDER_API const FewRowsKernels& few_rows_avx512();

}  // namespace outrider::kernels::cpu
