#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

#include "outrider/api.h"
#include "outrider/kernels/divergence.h"
#include "outrider/ops/student_rows.h"

namespace outrider::ops {

/// Results per step t and row n, float32 [T,N], not differentiable.
struct RowMetrics {
  at::Tensor loss;     // cross-entropy, or the divergence that was asked for
  at::Tensor correct;  // 1 where the argmax equals the target's
  at::Tensor overlap;  // Σ_v min(p_v, q_v); for labels, q of the label
};

struct StreamingLoss {
  at::Tensor total;  // Σ row_weights · loss, float32 (float64 for float64 input), differentiable
  RowMetrics rows;
};

/// Soft targets: p = softmax over the student's vocabulary of the teacher's logits, detached.
struct TeacherTargets {
  at::Tensor rows;  // [N,h_t]
  /// rows [r,h_t] → logits [r,V] over the student's vocabulary; called once per chunk under
  /// no_grad.
  std::function<at::Tensor(const at::Tensor&)> logits;
  /// Log-sum-exp over the teacher's whole vocabulary [N], or undefined. With it `overlap` counts
  /// p as it is, not renormalised over the student's vocabulary.
  at::Tensor full_log_sum_exp = {};
};

/// Cross-entropy of T sets of student rows against one set of targets, with the head (and the norm
/// before it) fused in: logits exist for one chunk of rows at a time, gradients with respect to the
/// rows, the norm and the head are computed in the same pass, and arithmetic after the matrix
/// product is in float32 at least. The gradients are what is kept for backward(), which hands them
/// over as they are where the total is the end of the graph; they have none themselves: a second
/// derivative is refused (kUnsupported).
///
/// students: a tensor [T,N,h], or rows of the steps' own outputs; head_weight [V,h]; row_weights
/// [T,N]; head_bias [V], added to the logits, or undefined. Rows of weight 0 cost no accuracy but
/// do cost time: leave them out where that needs no synchronisation.
OUTRIDER_API StreamingLoss streaming_cross_entropy(
    const StudentRows& students, const at::Tensor& head_weight, const TeacherTargets& teacher,
    const at::Tensor& row_weights, const at::Tensor& head_bias = {},
    Divergence divergence = Divergence::kCrossEntropy);

/// The same against labels [N] int64 (hard targets). A label outside the vocabulary is an error of
/// the caller where its weight is not 0.
OUTRIDER_API StreamingLoss streaming_cross_entropy(const StudentRows& students,
                                                   const at::Tensor& head_weight,
                                                   const at::Tensor& labels,
                                                   const at::Tensor& row_weights,
                                                   const at::Tensor& head_bias = {});

/// Of the logits rows · weightᵀ, per row and without a [N,V] buffer.
struct LogitStatistics {
  at::Tensor log_sum_exp;  // [N] float32 (float64 for float64 input)
  at::Tensor argmax;       // [N] int64
};
OUTRIDER_API LogitStatistics streaming_logit_statistics(const at::Tensor& rows,
                                                        const at::Tensor& weight);

/// Of the rows index [N] of logits [M,V] that exist already, without a copy of them all.
OUTRIDER_API LogitStatistics stored_logit_statistics(const at::Tensor& logits,
                                                     const at::Tensor& index);

}  // namespace outrider::ops
