#include "kernels/cross_entropy_rows.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cmath>

#include "kernels/cpu/instruction_set.h"
#include "kernels/cpu/row_kernels.h"
#include "outrider/error.h"
#include "outrider/kernels/accumulation.h"

namespace outrider::kernels {
namespace cpu {
namespace {

const RowKernels& row_kernels() {
  static const RowKernels& best = [&]() -> const RowKernels& {
    switch (best_instruction_set()) {
#if defined(__x86_64__)
      case InstructionSet::kAvx512:
        return row_kernels_avx512();
      case InstructionSet::kAvx2:
        return row_kernels_avx2();
#endif
      default:
        return row_kernels_baseline();
    }
  }();
  return best;
}

bool has_fast_kernel(const at::Tensor& logits) {
  return logits.scalar_type() == at::kFloat || logits.scalar_type() == at::kBFloat16;
}

at::Tensor row_buffer(const at::Tensor& logits) {
  return at::empty({logits.size(0)}, logits.options().dtype(accumulation_type(logits)));
}

// Calls run(row pointer, row index) for every row, in parallel.
template <class Run>
void for_rows(const at::Tensor& logits, Run run) {
  at::parallel_for(0, logits.size(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) run(r);
  });
}

BFloat16Bits* bits(const at::Tensor& logits) {
  return static_cast<BFloat16Bits*>(logits.data_ptr());
}

LogitRow fast_statistics(const at::Tensor& logits, int64_t r) {
  const int64_t size = logits.size(1);
  return logits.scalar_type() == at::kFloat
             ? row_kernels().statistics_float(logits.data_ptr<float>() + r * size, size)
             : row_kernels().statistics_bfloat16(bits(logits) + r * size, size);
}

SoftRowResult fast_soft(const at::Tensor& student, const at::Tensor& teacher, int64_t r,
                        const SoftRow& row) {
  const int64_t size = student.size(1);
  return student.scalar_type() == at::kFloat
             ? row_kernels().soft_float(student.data_ptr<float>() + r * size,
                                        teacher.data_ptr<float>() + r * size, size, row)
             : row_kernels().soft_bfloat16(bits(student) + r * size, bits(teacher) + r * size, size,
                                           row);
}

void fast_scaled_softmax(const at::Tensor& logits, int64_t r, float lse, float weight) {
  const int64_t size = logits.size(1);
  if (logits.scalar_type() == at::kFloat) {
    row_kernels().scaled_softmax_float(logits.data_ptr<float>() + r * size, size, lse, weight);
  } else {
    row_kernels().scaled_softmax_bfloat16(bits(logits) + r * size, size, lse, weight);
  }
}

float logit_at(const at::Tensor& logits, int64_t r, int64_t v) {
  const int64_t i = r * logits.size(1) + v;
  return logits.scalar_type() == at::kFloat
             ? logits.const_data_ptr<float>()[i]
             : static_cast<float>(logits.const_data_ptr<at::BFloat16>()[i]);
}

void set_logit(const at::Tensor& logits, int64_t r, int64_t v, float value) {
  const int64_t i = r * logits.size(1) + v;
  if (logits.scalar_type() == at::kFloat) {
    logits.data_ptr<float>()[i] = value;
  } else {
    logits.data_ptr<at::BFloat16>()[i] = value;
  }
}

// The types without a kernel of their own: float16 through float32, float64 as it is.
RowResults composed_soft(const at::Tensor& student, const at::Tensor& teacher,
                         const RowStatistics& teacher_rows, const at::Tensor& overlap_lse,
                         const at::Tensor& weights, bool write_gradient) {
  const auto s = widened(student);
  const auto t = widened(teacher);
  const auto lse = at::logsumexp(s, 1, true);
  const auto p = at::exp(t - teacher_rows.log_sum_exp.unsqueeze(1));
  const auto q = at::exp(s - lse);
  RowResults results;
  results.loss = (p * (lse - s)).sum(1);
  results.correct = (s.argmax(1) == teacher_rows.argmax).to(s.scalar_type());
  results.overlap = at::minimum(at::exp(t - overlap_lse.unsqueeze(1)), q).sum(1);
  if (write_gradient) student.copy_((q - p) * weights.unsqueeze(1));
  return results;
}

RowResults composed_labels(const at::Tensor& student, const at::Tensor& labels,
                           const at::Tensor& weights, bool write_gradient) {
  const auto s = widened(student);
  const auto lse = at::logsumexp(s, 1, true);
  const auto valid = at::logical_and(labels >= 0, labels < s.size(1)).unsqueeze(1);
  const auto index = at::where(valid, labels.unsqueeze(1), at::zeros_like(labels.unsqueeze(1)));
  const auto picked = at::gather(s, 1, index);
  RowResults results;
  results.loss = at::where(valid, lse - picked, at::zeros_like(lse)).squeeze(1);
  results.correct = (s.argmax(1) == labels).to(s.scalar_type());
  results.overlap = at::where(valid, at::exp(picked - lse), at::zeros_like(lse)).squeeze(1);
  if (write_gradient) {
    auto gradient = at::exp(s - lse);
    gradient.scatter_add_(1, index, -at::ones_like(picked));
    student.copy_(gradient * (weights.unsqueeze(1) * valid));
  }
  return results;
}

}  // namespace

RowStatistics row_statistics(const at::Tensor& logits) {
  RowStatistics rows{row_buffer(logits),
                     at::empty({logits.size(0)}, logits.options().dtype(at::kLong))};
  if (!has_fast_kernel(logits)) {
    const auto wide = widened(logits);
    return {at::logsumexp(wide, 1), wide.argmax(1)};
  }
  auto* lse = rows.log_sum_exp.data_ptr<float>();
  auto* argmax = rows.argmax.data_ptr<int64_t>();
  for_rows(logits, [&](int64_t r) {
    const auto row = fast_statistics(logits, r);
    lse[r] = row.log_sum_exp;
    argmax[r] = row.argmax;
  });
  return rows;
}

RowResults soft_cross_entropy_rows(const at::Tensor& student, const at::Tensor& teacher,
                                   const RowStatistics& teacher_rows,
                                   const at::Tensor& overlap_log_sum_exp, const at::Tensor& weights,
                                   bool write_gradient) {
  if (!has_fast_kernel(student)) {
    return composed_soft(student, teacher, teacher_rows, overlap_log_sum_exp, weights,
                         write_gradient);
  }
  RowResults results{row_buffer(student), row_buffer(student), row_buffer(student)};
  const auto* teacher_lse = teacher_rows.log_sum_exp.const_data_ptr<float>();
  const auto* teacher_argmax = teacher_rows.argmax.const_data_ptr<int64_t>();
  const auto* overlap_lse = overlap_log_sum_exp.const_data_ptr<float>();
  const auto* weight = weights.const_data_ptr<float>();
  for_rows(student, [&](int64_t r) {
    const auto own = fast_statistics(student, r);
    const auto row =
        fast_soft(student, teacher, r,
                  {own.log_sum_exp, teacher_lse[r], overlap_lse[r], weight[r], write_gradient});
    results.loss.data_ptr<float>()[r] = row.loss;
    results.overlap.data_ptr<float>()[r] = row.overlap;
    results.correct.data_ptr<float>()[r] = own.argmax == teacher_argmax[r] ? 1.0f : 0.0f;
  });
  return results;
}

RowResults label_cross_entropy_rows(const at::Tensor& student, const at::Tensor& labels,
                                    const at::Tensor& weights, bool write_gradient) {
  if (!has_fast_kernel(student)) return composed_labels(student, labels, weights, write_gradient);
  RowResults results{row_buffer(student), row_buffer(student), row_buffer(student)};
  const auto* label = labels.const_data_ptr<int64_t>();
  const auto* weight = weights.const_data_ptr<float>();
  for_rows(student, [&](int64_t r) {
    const auto own = fast_statistics(student, r);
    const bool valid = label[r] >= 0 && label[r] < student.size(1);
    const float logit = valid ? logit_at(student, r, label[r]) : 0.0f;
    results.loss.data_ptr<float>()[r] = valid ? own.log_sum_exp - logit : 0.0f;
    const float q = valid ? std::exp(logit - own.log_sum_exp) : 0.0f;
    results.overlap.data_ptr<float>()[r] = q;
    results.correct.data_ptr<float>()[r] = own.argmax == label[r] ? 1.0f : 0.0f;
    if (!write_gradient) return;
    const float scale = valid ? weight[r] : 0.0f;
    fast_scaled_softmax(student, r, own.log_sum_exp, scale);
    if (valid) set_logit(student, r, label[r], scale * (q - 1.0f));
  });
  return results;
}

}  // namespace cpu

namespace {

void check_logits(const at::Tensor& logits) {
  if (logits.dim() != 2 || !logits.is_contiguous() || logits.size(1) == 0) {
    throw Error(ErrorCode::kInternal, "row kernels need contiguous logits [R,V] with V > 0");
  }
}

}  // namespace

RowStatistics row_statistics(const at::Tensor& logits) {
  check_logits(logits);
  return logits.is_cuda() ? cuda::row_statistics(logits) : cpu::row_statistics(logits);
}

RowResults soft_cross_entropy_rows(const at::Tensor& student, const at::Tensor& teacher,
                                   const RowStatistics& teacher_rows,
                                   const at::Tensor& overlap_log_sum_exp, const at::Tensor& weights,
                                   bool write_gradient) {
  check_logits(student);
  check_logits(teacher);
  if (student.sizes() != teacher.sizes() || student.scalar_type() != teacher.scalar_type()) {
    throw Error(ErrorCode::kInternal, "student and teacher logits differ in shape or type");
  }
  const auto run = student.is_cuda() ? cuda::soft_cross_entropy_rows : cpu::soft_cross_entropy_rows;
  return run(student, teacher, teacher_rows, overlap_log_sum_exp, weights, write_gradient);
}

RowResults label_cross_entropy_rows(const at::Tensor& student, const at::Tensor& labels,
                                    const at::Tensor& weights, bool write_gradient) {
  check_logits(student);
  const auto run =
      student.is_cuda() ? cuda::label_cross_entropy_rows : cpu::label_cross_entropy_rows;
  return run(student, labels, weights, write_gradient);
}

}  // namespace outrider::kernels
