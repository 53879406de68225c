#include "step_losses.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "outrider/loss/step_metrics.h"

namespace outrider::eagle {
namespace {

// By the position of the token that the mask entry belongs to, [B,S].
at::Tensor token_mask(const TrainBatch& batch, const Numerics& numerics) {
  TrainBatch seen = batch;
  if (numerics.ignores_labels) seen.labels = at::Tensor();
  if (numerics.ignores_attention_mask ||
      (numerics.mask_gates_successor && batch.loss_mask.defined())) {
    seen.attention_mask = at::Tensor();
  }
  return token_targets(seen).mask;
}

// Row q of head i is gated by the mask of the token it predicts, q+2+i, or in the reference by that
// of q+1. Only the rows 0 … S-2-i have a target.
at::Tensor row_weights(const TrainBatch& batch, const Numerics& numerics, int64_t head) {
  const auto mask = token_mask(batch, numerics);
  if (numerics.mask_gates_successor) {
    return mask.slice(1, 1, mask.size(1) - head) * loss::within_documents(batch, 1 + head);
  }
  const auto last = at::zeros({mask.size(0), 1}, mask.options());
  return at::cat({mask.slice(1, 2 + head) * loss::within_documents(batch, 2 + head), last}, 1);
}

}  // namespace

TrainedRows trained_rows(const TrainBatch& batch, const Numerics& numerics, int64_t head) {
  const bool marks_others =
      numerics.ignores_labels || numerics.ignores_attention_mask || numerics.mask_gates_successor;
  return loss::trained_rows(row_weights(batch, numerics, head), batch.input_ids.size(1),
                            marks_others ? std::nullopt : batch.most_targets);
}

at::Tensor predicted_tokens(const TrainBatch& batch, const TrainedRows& rows, int64_t head) {
  const auto ids = token_targets(batch).ids;
  const auto position = (rows.position + 2 + head).clamp_max(ids.size(1) - 1);
  return ids.flatten().index_select(0, rows.sequence * ids.size(1) + position);
}

at::Tensor step_weights(const TrainBatch& batch, const TrainedRows& rows, int64_t steps) {
  const auto step = at::arange(steps, rows.position.options()).unsqueeze(1);
  const auto start = rows.position.unsqueeze(0) - step;
  const auto first = batch.documents
                         ? batch.documents->starts.flatten().index_select(0, rows.index())
                         : at::zeros({}, rows.position.options());
  return rows.weight.unsqueeze(0) * start.ge(first) * start.lt(batch.own_rows());
}

at::Tensor step_index(const std::vector<at::Tensor>& steps, const TrainedRows& rows) {
  const auto step =
      at::arange(static_cast<int64_t>(steps.size()), rows.position.options()).unsqueeze(1);
  const auto offset = rows.position - step, length = steps.front().size(1) - step;
  return at::where(offset.ge(0), rows.sequence * length + offset, -1);
}

at::Tensor gather_rows(const std::vector<at::Tensor>& steps, const at::Tensor& index) {
  const auto present = index.clamp_min(0);
  std::vector<at::Tensor> gathered;
  for (size_t k = 0; k < steps.size(); ++k) {
    gathered.push_back(steps[k].flatten(0, 1).index_select(0, present[static_cast<int64_t>(k)]));
  }
  return at::stack(gathered);
}

namespace {

std::string step_name(int64_t head, int64_t step) {
  return fmt::format("parallel_{}_step_{}", head, step);
}

}  // namespace

void add_absent_steps(DraftLoss& result, int64_t head, int64_t first, int64_t end) {
  for (int64_t step = first; step < end; ++step) {
    const auto zero = at::zeros_like(result.total.detach());
    result.steps.push_back({step_name(head, step), zero, zero, zero, zero});
  }
}

std::vector<StepMetrics> head_metrics(const ops::RowMetrics& rows, const at::Tensor& weights,
                                      const at::Tensor& totals, int64_t head) {
  std::vector<std::string> names;
  for (int64_t k = 0; k < weights.size(0); ++k) {
    names.push_back(step_name(head, k));
  }
  return loss::step_metrics(names, rows, weights, totals + 1e-5, totals);
}

}  // namespace outrider::eagle
