#include "outrider/ops/streaming_cross_entropy.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <functional>
#include <optional>

#include "kernels/cross_entropy_rows.h"
#include "outrider/error.h"
#include "outrider/kernels/accumulation.h"

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

/// The matrix that makes logits of rows.
struct Head {
  at::Tensor weight, bias;  // [V,h]; [V] or undefined
};

struct Gradients {
  at::Tensor students, head, bias;  // undefined where not wanted

  bool any() const { return students.defined() || head.defined() || bias.defined(); }
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

at::Tensor logits_of(const at::Tensor& rows, const Head& head) {
  return head.bias.defined() ? at::addmm(head.bias, rows, head.weight.t())
                             : at::mm(rows, head.weight.t());
}

/// One pass over all rows; gradients are those of Σ row_weights · loss.
RowMetrics stream(const at::Tensor& students, const Head& head, const Targets& targets,
                  const at::Tensor& row_weights, const Gradients& gradients) {
  const int64_t steps = students.size(0), rows = students.size(1);
  const auto options = students.options().dtype(accumulation_type(students));
  RowMetrics metrics{at::empty({steps, rows}, options), at::empty({steps, rows}, options),
                     at::empty({steps, rows}, options)};
  const int64_t chunk_rows = rows_per_chunk(steps, head.weight.size(0), head.weight);
  for (int64_t begin = 0; begin < rows; begin += chunk_rows) {
    const int64_t end = std::min(rows, begin + chunk_rows), size = end - begin;
    const auto chunk = chunk_targets(targets, begin, end);
    const auto inputs = students.slice(1, begin, end).reshape({steps * size, students.size(2)});
    const auto logits = logits_of(inputs, head);
    for (int64_t step = 0; step < steps; ++step) {
      const auto step_logits = logits.slice(0, step * size, (step + 1) * size);
      const auto weights = row_weights[step].slice(0, begin, end).contiguous();
      copy_results(step_rows(step_logits, chunk, weights, gradients.any()), metrics, step, begin,
                   end);
    }
    if (gradients.students.defined()) {
      gradients.students.slice(1, begin, end)
          .copy_(at::mm(logits, head.weight).view({steps, size, students.size(2)}));
    }
    if (gradients.head.defined()) gradients.head.add_(at::mm(logits.t(), inputs));
    if (gradients.bias.defined()) {
      gradients.bias.add_(logits.sum(0, /*keepdim=*/false, gradients.bias.scalar_type()));
    }
  }
  return metrics;
}

// Zeros to add chunks up in, wider than bfloat16, which would lose the small ones.
at::Tensor sum_like(const at::Tensor& parameter) {
  return at::zeros(parameter.sizes(), parameter.options().dtype(accumulation_type(parameter)));
}

at::Tensor narrowed(const at::Tensor& sum, const at::Tensor& parameter) {
  return sum.defined() ? sum.to(parameter.scalar_type()) : sum;
}

/// Which of a loss's inputs are trained.
struct Trained {
  bool students, head, bias;
};

struct StreamingCrossEntropy : torch::autograd::Function<StreamingCrossEntropy> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& students,
                            const at::Tensor& head_weight, const std::optional<at::Tensor>& bias,
                            const at::Tensor& row_weights, const Targets& targets,
                            RowMetrics* metrics, Trained trained) {
    const auto head_bias = bias.value_or(at::Tensor());
    Gradients gradients;
    if (trained.students) gradients.students = at::empty_like(students);
    if (trained.head) gradients.head = sum_like(head_weight);
    if (trained.bias) gradients.bias = sum_like(head_bias);
    *metrics = stream(students, {head_weight, head_bias}, targets, row_weights, gradients);
    ctx->save_for_backward({gradients.students, narrowed(gradients.head, head_weight),
                            narrowed(gradients.bias, head_bias)});
    return (metrics->loss * row_weights).sum();
  }

  static variable_list backward(AutogradContext* ctx, variable_list grad) {
    const auto saved = ctx->get_saved_variables();
    const auto scaled = [&](const at::Tensor& gradient) {
      return gradient.defined() ? gradient * grad[0].to(gradient.scalar_type()) : at::Tensor();
    };
    return {scaled(saved[0]), scaled(saved[1]), scaled(saved[2]), {}, {}, {}, {}};
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

bool fit(const at::Tensor& students, const Head& head, const at::Tensor& row_weights) {
  return students.dim() == 3 && head.weight.dim() == 2 && students.size(2) == head.weight.size(1) &&
         row_weights.sizes() == students.sizes().slice(0, 2) &&
         (!head.bias.defined() || head.bias.sizes() == head.weight.sizes().slice(0, 1));
}

StreamingLoss run(const at::Tensor& students, const Head& head, const Targets& targets,
                  const at::Tensor& row_weights) {
  if (!fit(students, head, row_weights)) {
    throw Error(ErrorCode::kInternal,
                "streaming_cross_entropy: students [T,N,h], head [V,h] with bias [V] or none, "
                "row_weights [T,N]");
  }
  const auto weights = row_weights.detach().to(accumulation_type(students));
  const auto is_trained = [](const at::Tensor& tensor) {
    return at::GradMode::is_enabled() && tensor.defined() && tensor.requires_grad();
  };
  // Autograd takes an input that is not there as an empty optional, not as an undefined tensor.
  const auto bias = head.bias.defined() ? std::optional(head.bias) : std::nullopt;
  StreamingLoss result;
  result.total = StreamingCrossEntropy::apply(
      students, head.weight, bias, weights, targets, &result.rows,
      Trained{is_trained(students), is_trained(head.weight), is_trained(head.bias)});
  return result;
}

}  // namespace

StreamingLoss streaming_cross_entropy(const at::Tensor& students, const at::Tensor& head_weight,
                                      const TeacherTargets& teacher, const at::Tensor& row_weights,
                                      const at::Tensor& head_bias) {
  return run(students, {head_weight, head_bias}, {.teacher = &teacher, .labels = {}}, row_weights);
}

StreamingLoss streaming_cross_entropy(const at::Tensor& students, const at::Tensor& head_weight,
                                      const at::Tensor& labels, const at::Tensor& row_weights,
                                      const at::Tensor& head_bias) {
  return run(students, {head_weight, head_bias}, {.teacher = nullptr, .labels = labels},
             row_weights);
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
