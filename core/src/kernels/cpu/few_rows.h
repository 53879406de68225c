#pragma once

#include <cstdint>

#include "outrider/api.h"

namespace outrider::kernels::cpu {

/// y = x Wᵀ of a few rows: x [rows,inner], W [outputs,inner], y [rows,outputs], each row after the
/// other without gaps.
struct FewRows {
  const float* x;
  const void* weight;
  float* y;
  int64_t rows, inner, outputs;
};

/// For one instruction set: the outputs from `begin` up to `end`, which reads their part of the
/// weight once whatever the number of rows. Sums are in float32.
struct FewRowsKernels {
  void (*of_float)(const FewRows& product, int64_t begin, int64_t end);
  void (*of_bfloat16)(const FewRows& product, int64_t begin, int64_t end);  // of the weight alone
};

OUTRIDER_API const FewRowsKernels& few_rows_baseline();
OUTRIDER_API const FewRowsKernels& few_rows_avx2();
OUTRIDER_API const FewRowsKernels& few_rows_avx512();

}  // namespace outrider::kernels::cpu
