#pragma once

#include <cstdint>

#include "outrider/kernels/divergence.h"

namespace outrider::kernels::cpu {

/// bfloat16 as its bits: these kernels include nothing of LibTorch's and are compiled once per
/// instruction set.
struct BFloat16Bits {
  uint16_t bits;
};

/// Arguments of one row; V logits each.
struct SoftRow {
  float student_lse, teacher_lse, overlap_lse, weight;
  Divergence divergence;
  bool write_gradient;
};
struct SoftRowResult {
  float loss, overlap;
};
struct LogitRow {
  float log_sum_exp;
  int64_t argmax;
};

/// The row kernels for one instruction set.
struct RowKernels {
  LogitRow (*statistics_float)(const float*, int64_t);
  LogitRow (*statistics_bfloat16)(const BFloat16Bits*, int64_t);
  SoftRowResult (*soft_float)(float*, const float*, int64_t, const SoftRow&);
  SoftRowResult (*soft_bfloat16)(BFloat16Bits*, const BFloat16Bits*, int64_t, const SoftRow&);
  /// logits[v] = weight · exp(logits[v] - lse)
  void (*scaled_softmax_float)(float*, int64_t, float lse, float weight);
  void (*scaled_softmax_bfloat16)(BFloat16Bits*, int64_t, float lse, float weight);
};

const RowKernels& row_kernels_baseline();
const RowKernels& row_kernels_avx2();
const RowKernels& row_kernels_avx512();

}  // namespace outrider::kernels::cpu
