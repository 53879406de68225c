#include "outrider/ops/streaming_cross_entropy.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <functional>

#include "kernels/accumulation.h"
#include "kernels/cross_entropy_rows.h"
#include "outrider/error.h"

namespace outrider::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Logits of one chunk, over all steps. Large enough for the matrix products to run at full speed.
constexpr int64_t kChunkBytesCpu = int64_t{48} << 20;
constexpr int64_t kChunkBytesCuda = int64_t{512} << 20;

/// Either a teacher or labels.
struct Targets {
  const TeacherTargets* teacher = nullptr;
  at::Tensor labels;
};

struct Gradients {
  at::Tensor students, head;  // undefined where not wanted
};

int64_t rows_per_chunk(int64_t steps, int64_t vocabulary, const at::Tensor& like) {
  const int64_t budget = like.is_cuda() ? kChunkBytesCuda : kChunkBytesCpu;
  const int64_t row_bytes = steps * vocabulary * like.element_size();
  return std::max<int64_t>(16, budget / row_bytes);
}

/// The chunk's targets, computed once for all steps.
struct ChunkTargets {
  at::Tensor teacher_logits, overlap_log_sum_exp, labels;
  kernels::RowStatistics teacher_rows;
};

ChunkTargets chunk_targets(const Targets& targets, int64_t begin, int64_t end) {
  ChunkTargets chunk;
  if (!targets.teacher) {
    chunk.labels = targets.labels.slice(0, begin, end).contiguous();
    return chunk;
  }
  chunk.teacher_logits =
      targets.teacher->logits(targets.teacher->rows.slice(0, begin, end)).contiguous();
  chunk.teacher_rows = kernels::row_statistics(chunk.teacher_logits);
  chunk.overlap_log_sum_exp =
      targets.teacher->full_log_sum_exp.defined()
          ? targets.teacher->full_log_sum_exp.slice(0, begin, end).contiguous()
          : chunk.teacher_rows.log_sum_exp;
  return chunk;
}

kernels::RowResults step_rows(const at::Tensor& logits, const ChunkTargets& targets,
                              const at::Tensor& weights, bool write_gradient) {
  if (targets.labels.defined()) {
    return kernels::label_cross_entropy_rows(logits, targets.labels, weights, write_gradient);
  }
  return kernels::soft_cross_entropy_rows(logits, targets.teacher_logits, targets.teacher_rows,
                                          targets.overlap_log_sum_exp, weights, write_gradient);
}

void copy_results(const kernels::RowResults& from, const RowMetrics& to, int64_t step,
                  int64_t begin, int64_t end) {
  to.loss[step].slice(0, begin, end).copy_(from.loss);
  to.correct[step].slice(0, begin, end).copy_(from.correct);
  to.overlap[step].slice(0, begin, end).copy_(from.overlap);
}

/// One pass over all rows; gradients are those of Σ row_weights · loss.
RowMetrics stream(const at::Tensor& students, const at::Tensor& head_weight, const Targets& targets,
                  const at::Tensor& row_weights, const Gradients& gradients) {
  const int64_t steps = students.size(0), rows = students.size(1);
  const auto options = students.options().dtype(accumulation_type(students));
  RowMetrics metrics{at::empty({steps, rows}, options), at::empty({steps, rows}, options),
                     at::empty({steps, rows}, options)};
  const bool want_gradient = gradients.students.defined() || gradients.head.defined();
  const int64_t chunk_rows = rows_per_chunk(steps, head_weight.size(0), head_weight);
  for (int64_t begin = 0; begin < rows; begin += chunk_rows) {
    const int64_t end = std::min(rows, begin + chunk_rows), size = end - begin;
    const auto chunk = chunk_targets(targets, begin, end);
    const auto inputs = students.slice(1, begin, end).reshape({steps * size, students.size(2)});
    const auto logits = at::mm(inputs, head_weight.t());
    for (int64_t step = 0; step < steps; ++step) {
      const auto step_logits = logits.slice(0, step * size, (step + 1) * size);
      const auto weights = row_weights[step].slice(0, begin, end).contiguous();
      copy_results(step_rows(step_logits, chunk, weights, want_gradient), metrics, step, begin,
                   end);
    }
    if (gradients.students.defined()) {
      gradients.students.slice(1, begin, end)
          .copy_(at::mm(logits, head_weight).view({steps, size, students.size(2)}));
    }
    if (gradients.head.defined()) gradients.head.add_(at::mm(logits.t(), inputs));
  }
  return metrics;
}

struct StreamingCrossEntropy : torch::autograd::Function<StreamingCrossEntropy> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& students,
                            const at::Tensor& head_weight, const at::Tensor& row_weights,
                            const Targets& targets, RowMetrics* metrics, bool train_head,
                            bool train_students) {
    Gradients gradients;
    if (train_students) gradients.students = at::empty_like(students);
    if (train_head) {
      // float32 while chunks add up: bfloat16 would lose the small ones.
      gradients.head = at::zeros(head_weight.sizes(),
                                 head_weight.options().dtype(accumulation_type(head_weight)));
    }
    *metrics = stream(students, head_weight, targets, row_weights, gradients);
    if (train_head) gradients.head = gradients.head.to(head_weight.scalar_type());
    ctx->save_for_backward({gradients.students, gradients.head});
    return (metrics->loss * row_weights).sum();
  }

  static variable_list backward(AutogradContext* ctx, variable_list grad) {
    const auto saved = ctx->get_saved_variables();
    const auto scaled = [&](const at::Tensor& gradient) {
      return gradient.defined() ? gradient * grad[0].to(gradient.scalar_type()) : at::Tensor();
    };
    return {scaled(saved[0]), scaled(saved[1]), {}, {}, {}, {}, {}};
  }
};

// `logits` makes those of the rows begin … end-1, in the type of `like`.
LogitStatistics chunked_statistics(int64_t rows, int64_t chunk_rows, const at::Tensor& like,
                                   const std::function<at::Tensor(int64_t, int64_t)>& logits) {
  const at::NoGradGuard no_grad;
  LogitStatistics all{at::empty({rows}, like.options().dtype(accumulation_type(like))),
                      at::empty({rows}, like.options().dtype(at::kLong))};
  for (int64_t begin = 0; begin < rows; begin += chunk_rows) {
    const int64_t end = std::min(rows, begin + chunk_rows);
    const auto chunk = kernels::row_statistics(logits(begin, end));
    all.log_sum_exp.slice(0, begin, end).copy_(chunk.log_sum_exp);
    all.argmax.slice(0, begin, end).copy_(chunk.argmax);
  }
  return all;
}

StreamingLoss run(const at::Tensor& students, const at::Tensor& head_weight, const Targets& targets,
                  const at::Tensor& row_weights) {
  if (students.dim() != 3 || head_weight.dim() != 2 || students.size(2) != head_weight.size(1) ||
      row_weights.sizes() != students.sizes().slice(0, 2)) {
    throw Error(ErrorCode::kInternal,
                "streaming_cross_entropy: students [T,N,h], head [V,h], row_weights [T,N]");
  }
  const auto weights = row_weights.detach().to(accumulation_type(students));
  const bool with_gradient = at::GradMode::is_enabled();
  StreamingLoss result;
  result.total = StreamingCrossEntropy::apply(students, head_weight, weights, targets, &result.rows,
                                              with_gradient && head_weight.requires_grad(),
                                              with_gradient && students.requires_grad());
  return result;
}

}  // namespace

StreamingLoss streaming_cross_entropy(const at::Tensor& students, const at::Tensor& head_weight,
                                      const TeacherTargets& teacher,
                                      const at::Tensor& row_weights) {
  return run(students, head_weight, {.teacher = &teacher, .labels = {}}, row_weights);
}

StreamingLoss streaming_cross_entropy(const at::Tensor& students, const at::Tensor& head_weight,
                                      const at::Tensor& labels, const at::Tensor& row_weights) {
  return run(students, head_weight, {.teacher = nullptr, .labels = labels}, row_weights);
}

LogitStatistics streaming_logit_statistics(const at::Tensor& rows, const at::Tensor& weight) {
  return chunked_statistics(
      rows.size(0), rows_per_chunk(1, weight.size(0), weight), rows,
      [&](int64_t begin, int64_t end) { return at::mm(rows.slice(0, begin, end), weight.t()); });
}

LogitStatistics stored_logit_statistics(const at::Tensor& logits, const at::Tensor& index) {
  return chunked_statistics(index.size(0), rows_per_chunk(1, logits.size(1), logits), logits,
                            [&](int64_t begin, int64_t end) {
                              return logits.index_select(0, index.slice(0, begin, end));
                            });
}

}  // namespace outrider::ops
