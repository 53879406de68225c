#include "kernels/cross_entropy_rows.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cmath>
#include <limits>

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

// Per token, what it adds to the loss and the derivative with respect to its q, as the row kernels'
// token().
struct Tokens {
  at::Tensor loss, slope;
};

Tokens tokens_of(Divergence divergence, const at::Tensor& log_p, const at::Tensor& log_q) {
  const auto p = at::exp(log_p), q = at::exp(log_q);
  if (divergence == Divergence::kReverseKl) return {q * (log_q - log_p), log_q - log_p};
  if (divergence == Divergence::kJensenShannon) {
    const auto log_m = at::logaddexp(log_p, log_q) - std::log(2.0);
    const auto slope = 0.5 * (log_q - log_m);
    return {0.5 * p * (log_p - log_m) + q * slope, slope};
  }
  const auto slope = -at::heaviside(p - q, at::full({}, 0.5, p.options()));
  const bool is_rate = divergence == Divergence::kLogAcceptance;
  return {is_rate ? at::minimum(p, q) : 0.5 * at::abs(p - q), slope};
}

struct LossAndGradient {
  at::Tensor loss, gradient;  // [T,R]; [T,R,V] with respect to the logits
};

LossAndGradient loss_and_gradient(Divergence divergence, const at::Tensor& log_p,
                                  const at::Tensor& log_q) {
  const auto p = at::exp(log_p), q = at::exp(log_q);
  if (divergence == Divergence::kCrossEntropy) return {-(p * log_q).sum(2), q - p};
  const auto tokens = tokens_of(divergence, log_p, log_q);
  const auto sum = tokens.loss.sum(2);
  const auto gradient = q * (tokens.slope - (q * tokens.slope).sum(2, /*keepdim=*/true));
  if (divergence != Divergence::kLogAcceptance) return {sum, gradient};
  const auto rate = sum.clamp_min(std::numeric_limits<float>::min());
  return {-at::log(rate), gradient / rate.unsqueeze(2)};
}

// The types without a kernel of their own: float16 through float32, float64 as it is.
RowResults composed_divergence(const at::Tensor& student, const TeacherRows& teacher,
                               const at::Tensor& weights, Divergence divergence,
                               bool write_gradient) {
  const auto s = by_step(student, teacher.logits.size(0));
  const auto t = widened(teacher.logits);
  const auto log_q = s - at::logsumexp(s, 2, true);
  const auto log_p = t - teacher.statistics.log_sum_exp.unsqueeze(1);
  const auto found = loss_and_gradient(divergence, log_p, log_q);
  RowResults results;
  results.loss = found.loss;
  results.correct = (s.argmax(2) == teacher.statistics.argmax).to(s.scalar_type());
  results.overlap =
      at::minimum(at::exp(t - teacher.overlap_log_sum_exp.unsqueeze(1)), at::exp(log_q)).sum(2);
  if (write_gradient) student.copy_(found.gradient.view(student.sizes()) * weights.unsqueeze(1));
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

RowResults divergence_rows(const at::Tensor& student, const TeacherRows& teacher,
                           const at::Tensor& weights, Divergence divergence, bool write_gradient) {
  if (!has_fast_kernel(student)) {
    return composed_divergence(student, teacher, weights, divergence, write_gradient);
  }
  RowResults results{row_buffer(student), row_buffer(student), row_buffer(student)};
  const auto* teacher_lse = teacher.statistics.log_sum_exp.const_data_ptr<float>();
  const auto* teacher_argmax = teacher.statistics.argmax.const_data_ptr<int64_t>();
  const auto* overlap_lse = teacher.overlap_log_sum_exp.const_data_ptr<float>();
  const auto* weight = weights.const_data_ptr<float>();
  for_rows(student, teacher.logits.size(0), [&](int64_t r, int64_t n) {
    const auto own = fast_statistics(student, r);
    const SoftRow values = {own.log_sum_exp, teacher_lse[n], overlap_lse[n],
                            weight[r],       divergence,     write_gradient};
    const auto row = fast_soft(student, r, teacher.logits, n, values);
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

RowResults divergence_rows(const at::Tensor& student, const TeacherRows& teacher,
                           const at::Tensor& weights, Divergence divergence, bool write_gradient) {
  check_logits(student);
  check_logits(teacher.logits);
  if (student.size(1) != teacher.logits.size(1) ||
      student.scalar_type() != teacher.logits.scalar_type()) {
    throw Error(ErrorCode::kInternal, "student and teacher logits differ in vocabulary or type");
  }
  check_targets(student, teacher.logits.size(0));
  const auto run = student.is_cuda() ? cuda::divergence_rows : cpu::divergence_rows;
  return run(student, teacher, weights, divergence, write_gradient);
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
