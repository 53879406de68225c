#include "outrider/ops/streaming_cross_entropy.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/graph_task.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <utility>

#include "kernels/cross_entropy_rows.h"
#include "kernels/scale.h"
#include "ops/student_chunks.h"
#include "outrider/error.h"
#include "outrider/kernels/accumulation.h"
#include "outrider/ops/product.h"

namespace outrider::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Logits of one chunk, over all steps. Large enough for the matrix products to run at full speed,
// which on a GPU takes some thousands of rows, whatever the vocabulary: each product also reads and
// writes the whole head and its gradient.
constexpr int64_t kChunkBytesCpu = int64_t{48} << 20;
constexpr int64_t kChunkBytesCuda = int64_t{512} << 20;
constexpr int64_t kFewestRowsCpu = 16, kFewestRowsCuda = 4096;

/// Either a teacher or labels.
struct Targets {
  const TeacherTargets* teacher = nullptr;
  Divergence divergence = Divergence::kCrossEntropy;  // from the teacher
  at::Tensor labels{};
};

/// The matrix that makes logits of rows.
struct Head {
  at::Tensor weight, bias;  // [V,h]; [V] or undefined
};

/// Sums in the accumulation type; undefined where not wanted.
struct HeadGradients {
  at::Tensor weight, bias;

  bool any() const { return weight.defined() || bias.defined(); }
};

/// How many of `rows` rows are computed together, `steps` logits of each: chunks are of nearly
/// equal size.
int64_t rows_per_chunk(int64_t rows, int64_t steps, int64_t vocabulary, const at::Tensor& like) {
  const int64_t budget = like.is_cuda() ? kChunkBytesCuda : kChunkBytesCpu;
  const int64_t fewest = like.is_cuda() ? kFewestRowsCuda / steps : kFewestRowsCpu;
  const int64_t fit = budget / (steps * vocabulary * like.element_size());
  const int64_t most = std::max<int64_t>({1, fewest, fit});
  const int64_t chunks = std::max<int64_t>(1, (rows + most - 1) / most);
  return std::max<int64_t>(1, (rows + chunks - 1) / chunks);
}

kernels::TeacherRows teacher_rows(const TeacherTargets& teacher, int64_t begin, int64_t end) {
  const auto logits = teacher.logits(teacher.rows.slice(0, begin, end)).contiguous();
  const auto statistics = kernels::row_statistics(logits);
  return {logits, statistics,
          teacher.full_log_sum_exp.defined()
              ? teacher.full_log_sum_exp.slice(0, begin, end).contiguous()
              : statistics.log_sum_exp};
}

// Of the targets begin … end-1 and all steps' logits [T·n,V] for them, which become the gradient
// where that is asked for.
kernels::RowResults loss_rows(const at::Tensor& logits, const Targets& targets, int64_t begin,
                              int64_t end, const at::Tensor& weights, bool write_gradient) {
  if (!targets.teacher) {
    return kernels::label_cross_entropy_rows(
        logits, targets.labels.slice(0, begin, end).contiguous(), weights, write_gradient);
  }
  return kernels::divergence_rows(logits, teacher_rows(*targets.teacher, begin, end), weights,
                                  targets.divergence, write_gradient);
}

void copy_results(const kernels::RowResults& from, const RowMetrics& to, int64_t begin,
                  int64_t end) {
  const auto copy = [&](const at::Tensor& values, const at::Tensor& all) {
    all.slice(1, begin, end).copy_(values.view({all.size(0), end - begin}));
  };
  copy(from.loss, to.loss);
  copy(from.correct, to.correct);
  copy(from.overlap, to.overlap);
}

at::Tensor logits_of(const at::Tensor& rows, const Head& head) {
  return head.bias.defined() ? at::addmm(head.bias, rows, head.weight.t())
                             : product(rows, head.weight.t());
}

// d_logits [R,V] of rows [R,h].
void add_gradient(HeadGradients& gradients, const at::Tensor& d_logits, const at::Tensor& rows) {
  if (gradients.weight.defined()) add_product(gradients.weight, d_logits.t(), rows);
  if (gradients.bias.defined()) {
    gradients.bias.add_(d_logits.sum(0, /*keepdim=*/false, gradients.bias.scalar_type()));
  }
}

/// One pass over all rows; gradients are those of Σ row_weights · loss.
RowMetrics stream(StudentChunks& students, const Head& head, const Targets& targets,
                  const at::Tensor& row_weights, HeadGradients& gradients) {
  const int64_t steps = row_weights.size(0), rows = row_weights.size(1);
  RowMetrics metrics{at::empty_like(row_weights), at::empty_like(row_weights),
                     at::empty_like(row_weights)};
  const bool write_gradient = students.wants_gradient() || gradients.any();
  const int64_t chunk_rows = rows_per_chunk(rows, steps, head.weight.size(0), head.weight);
  for (int64_t begin = 0; begin < rows; begin += chunk_rows) {
    const int64_t end = std::min(rows, begin + chunk_rows);
    const auto chunk = students.gather(begin, end);
    const auto logits = logits_of(chunk.head_inputs, head);
    const auto weights = row_weights.slice(1, begin, end).reshape({-1}).contiguous();
    copy_results(loss_rows(logits, targets, begin, end, weights, write_gradient), metrics, begin,
                 end);
    const auto& d_logits = logits;  // which the kernels wrote over them
    if (students.wants_gradient()) students.write_gradient(chunk, product(d_logits, head.weight));
    add_gradient(gradients, d_logits, chunk.head_inputs);
  }
  return metrics;
}

at::Tensor narrowed(const at::Tensor& sum, const at::Tensor& parameter) {
  return sum.defined() ? sum.to(parameter.scalar_type()) : sum;
}

// The gradient of what comes after the loss times a saved gradient: written over that one where
// nobody will ask for it again.
at::Tensor scaled(const at::Tensor& gradient, const at::Tensor& factor) {
  if (!gradient.defined()) return gradient;
  const auto by = factor.to(accumulation_type(gradient));
  if (torch::autograd::get_current_graph_task_keep_graph()) return gradient * by;
  kernels::scale_in_place(gradient, by);
  return gradient;
}

struct StreamingCrossEntropy : torch::autograd::Function<StreamingCrossEntropy> {
  // `rows` and `norm` are those of `students`, named for autograd to see them.
  static at::Tensor forward(AutogradContext* ctx, const at::TensorList& /*rows*/,
                            const std::optional<at::Tensor>& /*norm*/,
                            const at::Tensor& head_weight, const std::optional<at::Tensor>& bias,
                            const at::Tensor& row_weights, const Targets& targets,
                            StudentChunks* students, HeadGradients* gradients,
                            RowMetrics* metrics) {
    const Head head{head_weight, bias.value_or(at::Tensor())};
    *metrics = stream(*students, head, targets, row_weights, *gradients);
    auto saved = students->gradients();
    saved.push_back(students->norm_gradient());
    saved.push_back(narrowed(gradients->weight, head.weight));
    saved.push_back(narrowed(gradients->bias, head.bias));
    ctx->save_for_backward(std::move(saved));
    return (metrics->loss * row_weights).sum();
  }

  static variable_list backward(AutogradContext* ctx, variable_list grad) {
    if (at::GradMode::is_enabled()) {
      throw Error(ErrorCode::kUnsupported, "streaming_cross_entropy has no second derivative",
                  "call backward without create_graph");
    }
    variable_list gradients;
    for (const auto& gradient : ctx->get_saved_variables()) {
      gradients.push_back(scaled(gradient, grad[0]));
    }
    constexpr size_t kArgumentsWithout = 5;
    gradients.resize(gradients.size() + kArgumentsWithout);
    return gradients;
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

bool fit(const StudentRows& students, const Head& head, const at::Tensor& row_weights) {
  return head.weight.dim() == 2 && students.width() == head.weight.size(1) &&
         row_weights.sizes() == at::IntArrayRef({students.step_count(), students.row_count()}) &&
         (!head.bias.defined() || head.bias.sizes() == head.weight.sizes().slice(0, 1));
}

// Autograd takes an input that is not there as an empty optional, not as an undefined tensor.
std::optional<at::Tensor> if_defined(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

StreamingLoss run(const StudentRows& students, const Head& head, const Targets& targets,
                  const at::Tensor& row_weights) {
  students.check();
  if (!fit(students, head, row_weights)) {
    throw Error(ErrorCode::kInternal,
                "streaming_cross_entropy: students [T,N,h], head [V,h] with bias [V] or none, "
                "row_weights [T,N]");
  }
  const auto weights = row_weights.detach().to(accumulation_type(students.tensors.front()));
  StudentChunks chunks(students);
  HeadGradients gradients;
  if (is_trained(head.weight)) gradients.weight = gradient_sum(head.weight);
  if (is_trained(head.bias)) gradients.bias = gradient_sum(head.bias);
  StreamingLoss result;
  result.total = StreamingCrossEntropy::apply(
      at::TensorList(students.tensors), if_defined(students.norm_weight), head.weight,
      if_defined(head.bias), weights, targets, &chunks, &gradients, &result.rows);
  return result;
}

}  // namespace

StreamingLoss streaming_cross_entropy(const StudentRows& students, const at::Tensor& head_weight,
                                      const TeacherTargets& teacher, const at::Tensor& row_weights,
                                      const at::Tensor& head_bias, Divergence divergence) {
  return run(students, {head_weight, head_bias}, {.teacher = &teacher, .divergence = divergence},
             row_weights);
}

StreamingLoss streaming_cross_entropy(const StudentRows& students, const at::Tensor& head_weight,
                                      const at::Tensor& labels, const at::Tensor& row_weights,
                                      const at::Tensor& head_bias) {
  return run(students, {head_weight, head_bias}, {.labels = labels}, row_weights);
}

LogitStatistics streaming_logit_statistics(const at::Tensor& rows, const at::Tensor& weight) {
  return chunked_statistics(
      rows.size(0), rows_per_chunk(rows.size(0), 1, weight.size(0), weight), rows,
      [&](int64_t begin, int64_t end) { return product(rows.slice(0, begin, end), weight.t()); });
}

LogitStatistics stored_logit_statistics(const at::Tensor& logits, const at::Tensor& index) {
  return chunked_statistics(index.size(0), rows_per_chunk(index.size(0), 1, logits.size(1), logits),
                            logits, [&](int64_t begin, int64_t end) {
                              return logits.index_select(0, index.slice(0, begin, end));
                            });
}

}  // namespace outrider::ops
