#pragma once

#include <cstdint>

#include "outrider/kernels/data_type.h"
#include "outrider/kernels/divergence.h"
#include "outrider/kernels/launcher.h"

struct CUstream_st;

// The kernels behind kernels/cross_entropy_rows.h, on raw device pointers. Logits are contiguous
// [rows, vocab] of `type`; void* results are [rows] in the accumulation type (float, double for
// kDouble). Everything runs on `stream`; the result is the launch's cudaError_t. Rows that contain
// NaN give NaN losses. Sums run in a fixed order: equal input gives equal bits.

namespace outrider::kernels::cuda {

struct RowsShape {
  DataType type;
  int64_t rows, vocab;  // vocab ≤ 2^31
  int64_t steps = 1;    // T students for each target: row t · rows/T + n is held against target n
};

struct RowResultPointers {
  void *loss, *correct, *overlap;
};

/// Log-sum-exp and the first index of the maximum; index 0 where no logit is above -∞.
OUTRIDER_LAUNCHER int launch_row_statistics(const RowsShape& shape, const void* logits,
                                            void* log_sum_exp, int64_t* argmax,
                                            CUstream_st* stream);

struct DivergenceRowsPointers {
  void* student;  // overwritten with the gradient where that is asked for
  const void* teacher;
  const void* teacher_log_sum_exp;
  const int64_t* teacher_argmax;
  const void *overlap_log_sum_exp, *weights;
  RowResultPointers results;
};

/// A token of which p is 0 adds nothing to the loss but for reverse KL, nor one of which q is 0,
/// but for cross-entropy.
OUTRIDER_LAUNCHER int launch_divergence_rows(const RowsShape& shape,
                                             const DivergenceRowsPointers& pointers,
                                             Divergence divergence, bool write_gradient,
                                             CUstream_st* stream);

struct LabelRowsPointers {
  void* student;
  const int64_t* labels;
  const void* weights;
  RowResultPointers results;
};

OUTRIDER_LAUNCHER int launch_label_rows(const RowsShape& shape, const LabelRowsPointers& pointers,
                                        bool write_gradient, CUstream_st* stream);

}  // namespace outrider::kernels::cuda
