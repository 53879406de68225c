#include "pull_on_targets.h"

#include <ATen/ATen.h>

namespace outrider::eagle {

at::Tensor pull_on_targets(const BaseOutputs& base, const at::Tensor& target_ids,
                           const at::Tensor& rows, const at::Tensor& student_logits,
                           const at::Tensor& row_weights) {
  const auto hidden = base.last_hidden.flatten(0, 1).index_select(0, rows);
  const auto whole = base.head->weight();
  const auto logits =
      at::linear(hidden, target_ids.defined() ? whole.index_select(0, target_ids) : whole);
  const auto targets = at::softmax(logits, -1, at::kFloat);
  const auto surprise = -at::log_softmax(student_logits, -1, at::kFloat);
  const auto loss = ((targets * surprise).sum(-1) * row_weights).sum();
  return loss - loss.detach();
}

}  // namespace outrider::eagle
