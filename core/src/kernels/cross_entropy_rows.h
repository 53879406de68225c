#pragma once

#include <ATen/core/Tensor.h>

#include "outrider/kernels/divergence.h"

namespace outrider::kernels {

/// Per row of finite logits [R,V]: the log of Σ exp, and the first index of the maximum.
struct RowStatistics {
  at::Tensor log_sum_exp;  // [R] accumulation type: float32, float64 for float64 logits
  at::Tensor argmax;       // [R] int64
};

/// Results per row, [R] in the accumulation type.
struct RowResults {
  at::Tensor loss, correct, overlap;
};

RowStatistics row_statistics(const at::Tensor& logits);

/// Soft targets: contiguous logits [R,V] of a teacher.
struct TeacherRows {
  at::Tensor logits;
  RowStatistics statistics;        // of the logits
  at::Tensor overlap_log_sum_exp;  // [R] what normalises p in the overlap: the teacher's own, or
                                   // that of a larger vocabulary
};

/// For students of T steps: contiguous logits [T·R,V] of the teacher's dtype and device, row t·R +
/// n against the teacher's n; weights [T·R] accumulation type. Results are [T·R]:
///   loss = the divergence, correct = argmax equal, overlap = Σ min(p', q)
/// With `write_gradient`, student becomes weights · ∂loss/∂student in its own dtype.
RowResults divergence_rows(const at::Tensor& student, const TeacherRows& teacher,
                           const at::Tensor& weights, Divergence divergence, bool write_gradient);

/// The same for labels [R] int64. A label outside [0,V) gives loss 0 and a zero gradient.
///   loss = lse_q - student[label], correct = argmax equal, overlap = q[label]
RowResults label_cross_entropy_rows(const at::Tensor& student, const at::Tensor& labels,
                                    const at::Tensor& weights, bool write_gradient);

// The two backends behind the functions above, which check arguments and dispatch on the device.
namespace cpu {
RowStatistics row_statistics(const at::Tensor& logits);
RowResults divergence_rows(const at::Tensor& student, const TeacherRows& teacher,
                           const at::Tensor& weights, Divergence divergence, bool write_gradient);
RowResults label_cross_entropy_rows(const at::Tensor& student, const at::Tensor& labels,
                                    const at::Tensor& weights, bool write_gradient);
}  // namespace cpu
namespace cuda {  // in a build without CUDA every one throws kDeviceUnavailable
RowStatistics row_statistics(const at::Tensor& logits);
RowResults divergence_rows(const at::Tensor& student, const TeacherRows& teacher,
                           const at::Tensor& weights, Divergence divergence, bool write_gradient);
RowResults label_cross_entropy_rows(const at::Tensor& student, const at::Tensor& labels,
                                    const at::Tensor& weights, bool write_gradient);
}  // namespace cuda

}  // namespace outrider::kernels
