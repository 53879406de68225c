#include "kernels/cross_entropy_rows.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cmath>

#include "kernels/cpu/row_kernels.h"
#include "outrider/error.h"
#include "outrider/kernels/accumulation.h"

namespace outrider::kernels {
namespace cpu {
namespace {

const RowKernels& row_kernels() {
#if defined(__x86_64__)
  static const RowKernels& best = [&]() -> const RowKernels& {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
      return row_kernels_avx512();
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return row_kernels_avx2();
    return row_kernels_baseline();
  }();
  return best;
#else
  return row_kernels_baseline();
#endif
}

bool has_fast_kernel(const at::Tensor& logits) {
  return logits.scalar_type() == at::kFloat || logits.scalar_type() == at::kBFloat16;
}

at::Tensor row_buffer(const at::Tensor& logits) {
  return at::empty({logits.size(0)}, logits.options().dtype(accumulation_type(logits)));
}

// Calls run(row, target) for every row of logits that are held against `targets` rows, in parallel:
// the rows of one target follow each other, while that is in the cache.
template <class Run>
void for_rows(const at::Tensor& logits, int64_t targets, Run run) {
  at::parallel_for(0, logits.size(0), 1, [&](int64_t begin, int64_t end) {
    const int64_t steps = logits.size(0) / targets;
    for (int64_t i = begin; i < end; ++i) run(i % steps * targets + i / steps, i / steps);
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

SoftRowResult fast_soft(const at::Tensor& student, int64_t r, const at::Tensor& teacher, int64_t n,
                        const SoftRow& row) {
  const int64_t size = student.size(1);
  return student.scalar_type() == at::kFloat
             ? row_kernels().soft_float(student.data_ptr<float>() + r * size,
                                        teacher.data_ptr<float>() + n * size, size, row)
             : row_kernels().soft_bfloat16(bits(student) + r * size, bits(teacher) + n * size, size,
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

// logits [T·R,V] → [T,R,V] in the accumulation type, to be held against R targets.
at::Tensor by_step(const at::Tensor& logits, int64_t targets) {
  const int64_t steps = targets == 0 ? 0 : logits.size(0) / targets;
  return widened(logits).view({steps, targets, logits.size(1)});
}

RowResults flat(const RowResults& by_step) {
  return {by_step.loss.flatten(), by_step.correct.flatten(), by_step.overlap.flatten()};
}

// The types without a kernel of their own: float16 through float32, float64 as it is.
RowResults composed_soft(const at::Tensor& student, const at::Tensor& teacher,
                         const RowStatistics& teacher_rows, const at::Tensor& overlap_lse,
                         const at::Tensor& weights, bool write_gradient) {
  const auto s = by_step(student, teacher.size(0));
  const auto t = widened(teacher);
  const auto lse = at::logsumexp(s, 2, true);
  const auto p = at::exp(t - teacher_rows.log_sum_exp.unsqueeze(1));
  const auto q = at::exp(s - lse);
  RowResults results;
  results.loss = (p * (lse - s)).sum(2);
  results.correct = (s.argmax(2) == teacher_rows.argmax).to(s.scalar_type());
  results.overlap = at::minimum(at::exp(t - overlap_lse.unsqueeze(1)), q).sum(2);
  if (write_gradient) student.copy_((q - p).view(student.sizes()) * weights.unsqueeze(1));
  return flat(results);
}

RowResults composed_labels(const at::Tensor& student, const at::Tensor& labels,
                           const at::Tensor& weights, bool write_gradient) {
  const auto s = by_step(student, labels.size(0));
  const auto lse = at::logsumexp(s, 2, true);
  const auto own = labels.expand({s.size(0), -1}).unsqueeze(2);  // [T,R,1]
  const auto valid = at::logical_and(own >= 0, own < s.size(2));
  const auto index = at::where(valid, own, at::zeros_like(own));
  const auto picked = at::gather(s, 2, index);
  RowResults results;
  results.loss = at::where(valid, lse - picked, at::zeros_like(lse)).squeeze(2);
  results.correct = (s.argmax(2) == labels).to(s.scalar_type());
  results.overlap = at::where(valid, at::exp(picked - lse), at::zeros_like(lse)).squeeze(2);
  if (write_gradient) {
    auto gradient = at::exp(s - lse);
    gradient.scatter_add_(2, index, -at::ones_like(picked));
    student.copy_((gradient * valid).view(student.sizes()) * weights.unsqueeze(1));
  }
  return flat(results);
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
  for_rows(logits, logits.size(0), [&](int64_t r, int64_t) {
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
  for_rows(student, teacher.size(0), [&](int64_t r, int64_t n) {
    const auto own = fast_statistics(student, r);
    const auto row =
        fast_soft(student, r, teacher, n,
                  {own.log_sum_exp, teacher_lse[n], overlap_lse[n], weight[r], write_gradient});
    results.loss.data_ptr<float>()[r] = row.loss;
    results.overlap.data_ptr<float>()[r] = row.overlap;
    results.correct.data_ptr<float>()[r] = own.argmax == teacher_argmax[n] ? 1.0f : 0.0f;
  });
  return results;
}

RowResults label_cross_entropy_rows(const at::Tensor& student, const at::Tensor& labels,
                                    const at::Tensor& weights, bool write_gradient) {
  if (!has_fast_kernel(student)) return composed_labels(student, labels, weights, write_gradient);
  RowResults results{row_buffer(student), row_buffer(student), row_buffer(student)};
  const auto* weight = weights.const_data_ptr<float>();
  for_rows(student, labels.size(0), [&](int64_t r, int64_t n) {
    const auto own = fast_statistics(student, r);
    const int64_t label = labels.const_data_ptr<int64_t>()[n];
    const bool valid = label >= 0 && label < student.size(1);
    const float logit = valid ? logit_at(student, r, label) : 0.0f;
    results.loss.data_ptr<float>()[r] = valid ? own.log_sum_exp - logit : 0.0f;
    const float q = valid ? std::exp(logit - own.log_sum_exp) : 0.0f;
    results.overlap.data_ptr<float>()[r] = q;
    results.correct.data_ptr<float>()[r] = own.argmax == label ? 1.0f : 0.0f;
    if (!write_gradient) return;
    const float scale = valid ? weight[r] : 0.0f;
    fast_scaled_softmax(student, r, own.log_sum_exp, scale);
    if (valid) set_logit(student, r, label, scale * (q - 1.0f));
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

void check_targets(const at::Tensor& student, int64_t targets) {
  if (targets == 0 ? student.size(0) != 0 : student.size(0) % targets != 0) {
    throw Error(ErrorCode::kInternal,
                "students need as many rows as there are targets, or T times");
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
  if (student.size(1) != teacher.size(1) || student.scalar_type() != teacher.scalar_type()) {
    throw Error(ErrorCode::kInternal, "student and teacher logits differ in vocabulary or type");
  }
  check_targets(student, teacher.size(0));
  const auto run = student.is_cuda() ? cuda::soft_cross_entropy_rows : cpu::soft_cross_entropy_rows;
  return run(student, teacher, teacher_rows, overlap_log_sum_exp, weights, write_gradient);
}

RowResults label_cross_entropy_rows(const at::Tensor& student, const at::Tensor& labels,
                                    const at::Tensor& weights, bool write_gradient) {
  check_logits(student);
  check_targets(student, labels.size(0));
  const auto run =
      student.is_cuda() ? cuda::label_cross_entropy_rows : cpu::label_cross_entropy_rows;
  return run(student, labels, weights, write_gradient);
}

}  // namespace outrider::kernels
